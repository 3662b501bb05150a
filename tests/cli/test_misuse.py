"""Bad input: one clear line, the right exit status, nothing left half done."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ephemeralml.attestation import Measurements, Policy

from .conftest import Run

ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    Policy(measurements=[Measurements(pcr0=b"\1" * 48, pcr1=b"\2" * 48, pcr2=b"\3" * 48)]).save(path)
    return path


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def _pack(folder: Path, out: Path, key: Path) -> tuple[object, ...]:
    return ("pack", folder, out, "--key", key, "--version", 1, "--kms-key", ARN)


def _owner_key(run: Run, tmp_path: Path) -> Path:
    key = tmp_path / "owner.key"
    assert run("keygen", key)[0] == 0
    return key


@pytest.mark.parametrize("digest", ["", "00", "0" * 63, "0" * 65, "g" * 64, " ".join(["00"] * 32), "\u0663" * 64])
def test_rewrap_takes_one_form_of_digest(run: Run, tmp_path: Path, digest: str) -> None:
    key = _owner_key(run, tmp_path)
    command = ("rewrap", tmp_path / "package", tmp_path / "out", "--key", key, "--kms-key", ARN)
    status, _, error = run(*command, "--from", digest)
    assert status == 2
    assert error.endswith("[package.digest] docs/errors.md#package\n")
    status, _, error = run(*command)
    assert status == 2
    assert "--from" in error


def test_no_command_shows_help(run: Run) -> None:
    status, out, err = run()
    assert status == 2
    assert "keygen" in out + err


def test_keygen_never_overwrites(run: Run, tmp_path: Path) -> None:
    key = _owner_key(run, tmp_path)
    before = key.read_bytes()
    status, _, err = run("keygen", key)
    assert status == 2
    assert str(key) in err
    assert key.read_bytes() == before


def test_pack_without_weights(run: Run, tmp_path: Path) -> None:
    key = _owner_key(run, tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["BertModel"],
                "model_type": "bert",
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "intermediate_size": 64,
                "max_position_embeddings": 64,
                "vocab_size": 100,
                "hidden_act": "gelu",
            }
        )
    )
    status, _, err = run(*_pack(folder, tmp_path / "out", key))
    assert status == 1
    assert "model.safetensors" in err
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "owner.key", "owner.key.pub"}


def test_pack_an_unsupported_architecture_names_it(run: Run, tmp_path: Path) -> None:
    key = _owner_key(run, tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaModel"], "model_type": "llama"}))
    status, _, err = run(*_pack(folder, tmp_path / "out", key))
    assert status == 1
    assert "Llama" in err
    assert not (tmp_path / "out").exists()


def test_policy_without_measurements(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"version": 1, "measurements": []}))
    status, _, err = run("policy", "show", path)
    assert status == 2
    assert "measurement" in err
    (tmp_path / "m.json").write_text("{}")
    status, _, err = run("policy", "create", "--measurements", tmp_path / "m.json", "--out", tmp_path / "new.json")
    assert status == 2
    assert not (tmp_path / "new.json").exists()


def test_host_says_which_package_is_missing(run: Run, tmp_path: Path) -> None:
    status, _, err = run("host", "run", tmp_path / "nothing", "--configuration", tmp_path / "enclave.json")
    assert status == 1
    assert str(tmp_path / "nothing") in err


def test_kms_port_in_use(run: Run, tmp_path: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    status, _, err = run("kms", "run", tmp_path / "kms", "--root", tmp_path / "root", "--port", port)
    assert status == 2
    assert str(port) in err


def test_embed_against_nobody(run: Run, policy: Path, listener: socket.socket) -> None:
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    status, _, err = run("embed", "a text", "--policy", policy, "--address", address)
    assert status == 1
    assert address in err


@pytest.mark.parametrize("banner", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1\2x", b"", b"\xff" * 5])
def test_embed_against_something_that_is_no_enclave(
    run: Run, policy: Path, listener: socket.socket, banner: bytes
) -> None:
    def serve() -> None:
        # A client whose connection ended comes once more, and would wait for an answer.
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with closing(connection):
                    connection.recv(65536)
                    connection.sendall(banner)

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    status, out, err = run("embed", "a secret text", "--policy", policy, "--address", address)
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert status == 1
    assert out == ""
    assert err.count("\n") == 1
    assert "secret" not in err


def test_embed_wants_texts_or_a_file(run: Run, policy: Path) -> None:
    assert run("embed", "--policy", policy)[0] == 2
    assert run("embed", "x", "--file", "-", "--policy", policy)[0] == 2
    assert run("embed", "x", "--policy", policy, "--out", "vectors.csv")[0] == 2


@pytest.mark.parametrize(("name", "code"), [("v.csv", "embed.format"), ("v.parquet", "embed.pyarrow")])
def test_a_file_that_cannot_be_written_is_said_before_anybody_is_asked(
    monkeypatch: pytest.MonkeyPatch, run: Run, policy: Path, listener: socket.socket, *, name: str, code: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    out = policy.with_name(name)
    status, said, err = run("embed", "a text", "--policy", policy, "--address", address, "--out", out)
    assert (status, said) == (2, "")
    assert err.endswith(f" [{code}] docs/errors.md#embed\n")
    assert ("pip install 'ephemeralml[parquet]'" in err) == (name == "v.parquet")
    assert list(out.parent.iterdir()) == [policy]
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_verify_judges_and_says_usage_apart(run: Run, policy: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "x.aer"
    assert run("verify", bundle, "--policy", policy)[0] == 2
    bundle.write_bytes(b"not a bundle")
    status, out, _ = run("verify", bundle, "--policy", policy)
    assert status == 1
    assert "refused" in out
    status, out, _ = run("verify", bundle, "--policy", policy, "--json")
    assert status == 1
    assert json.loads(out)["ok"] is False
    assert run("verify", bundle, "--policy", policy, "--at", "yesterday")[0] == 2
    assert run("verify", bundle, "--policy", tmp_path / "no-policy.json")[0] == 2


def test_a_file_name_commands_no_terminal_and_begins_no_line(run: Run, tmp_path: Path) -> None:
    status, _, err = run("inspect", tmp_path / "\x1b[2J\nephemeralml: done")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


def test_inspect_garbage(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"\xff" * 100)
    status, _, err = run("inspect", path)
    assert status == 1
    assert "none of" in err


def test_ctrl_c_ends_a_server_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ephemeralml.cli", "kms", "run", str(tmp_path / "kms")),
            *("--root", str(tmp_path / "root"), "--port", "0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "serving on" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [
        ("starlette", "devcloud", ("kms", "run", "data", "--root", "dev-root")),
        ("boto3", "host", ("kms", "create-key", "--measurements", "pcrs.json")),
        ("starlette", "gateway", ("gateway", "--policy", "policy.json")),
    ],
)
def test_a_command_without_what_it_needs_names_the_extra(
    tmp_path: Path, policy: Path, module: str, extra: str, command: tuple[str, ...]
) -> None:
    (tmp_path / "pcrs.json").write_text(json.dumps({f"PCR{index}": "11" * 48 for index in range(3)}))
    policy.rename(tmp_path / "policy.json")
    program = f"import sys; sys.modules[{module!r}] = None; from ephemeralml.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("ephemeralml: this needs ")
    assert ended.stderr.endswith(f": pip install 'ephemeralml[{extra}]'\n")
