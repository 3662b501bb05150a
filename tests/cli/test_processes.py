"""The command as a process: full disks, damaged packages, ports in use, Ctrl-C; nothing half done is left of any."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from pyarrow.parquet import read_table
from terminal import Terminal

from ephemeralml.attestation import Policy
from ephemeralml.client import Client
from ephemeralml.session.transport import Address

# Far more than anything here takes on a slow machine.
PATIENCE = 120
WEIGHTS = "model.safetensors"


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Command:
    """An `ephemeralml` command in a process of its own; what it says goes into `folder`, so that it never waits."""

    def __init__(self, folder: Path, *arguments: object, environment: dict[str, str], group: bool = False) -> None:
        folder.mkdir()
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ephemeralml.cli", *map(str, arguments)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=group,
            )
        self._group = group

    def said(self) -> str:
        return self._out.read_text() + self._err.read_text()

    def wait_for(self, word: str) -> str:
        """The rest of the line after `word`, once it is there whole."""
        await_(lambda: self._after(word) is not None or self.process.poll() is not None)
        rest = self._after(word)
        assert rest is not None, f"it ended without {word!r}: {self.said()}"
        return rest

    def relay(self) -> str:
        """The relay's address, once a host serves."""
        return self.wait_for("host: ready relay ").partition(",")[0]

    def _after(self, word: str) -> str | None:
        _, found, rest = self.said().partition(word)
        return rest.partition("\n")[0] if found and "\n" in rest else None

    def interrupt(self) -> Ended:
        """Ctrl-C; at a terminal the whole process group gets it."""
        if self._group:
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> Ended:
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self._err.read_text()
        return Ended(status, self._out.read_text(), self._err.read_text())


@dataclass(frozen=True, kw_only=True)
class World:
    """What all tests here share and none changes: a KMS with a key, an owner, a package, a policy."""

    folder: Path
    model: Path
    kms: str
    key: str

    @property
    def package(self) -> Path:
        return self.folder / "package"

    @property
    def configuration(self) -> Path:
        return self.folder / "enclave.json"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.json"

    def environment(self, profile: str = "owner") -> dict[str, str]:
        """That of a user whose AWS profile it is, and who hears everything at once."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return mine | {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "kms" / "credentials"),
            "AWS_PROFILE": profile,
            # A limit on the size of files would strike the compiled ones.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, *arguments: object, profile: str = "owner") -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "ephemeralml.cli", *map(str, arguments)],
            env=self.environment(profile),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, *arguments: object) -> str:
        ended = self.run(*arguments)
        assert ended.status == 0, ended.err
        return ended.out

    def pack(self, out: Path, *, model: Path | None = None, kms: str | None = None) -> tuple[object, ...]:
        return (
            *("pack", model or self.model, out, "--key", self.folder / "owner.key", "--version", 1),
            *("--kms-key", self.key, "--kms-endpoint", kms or self.kms, "--model-id", "tiny"),
        )

    def host(
        self, package: Path | None = None, *, kms: str | None = None, relay: str = "tcp://127.0.0.1:0"
    ) -> tuple[object, ...]:
        return (
            *("host", "run", package or self.package, "--configuration", self.configuration, "--root", self.root),
            *("--kms-endpoint", kms or self.kms, "--relay", relay),
        )


def serve_kms(folder: Path, *, port: int = 0) -> tuple[object, ...]:
    return ("kms", "run", folder / "kms", "--root", folder / "root", "--port", port)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    before = World(folder=folder, model=tiny_model, kms="", key="")
    kms = Command(folder / "commands", *serve_kms(folder), environment=before.environment())
    try:
        url = kms.wait_for("serving on ")
        before.done("keygen", folder / "owner.key")
        owner = (folder / "owner.key.pub").read_text().strip()
        before.configuration.write_text(json.dumps({"model_owner": owner, "model_id": "tiny"}))
        measurements = folder / "measurements.json"
        measurements.write_text(before.done("enclave", "measure", before.configuration))
        key = before.done("kms", "create-key", "--measurements", measurements, "--endpoint", url).strip()
        world = World(folder=folder, model=tiny_model, kms=url, key=key)
        world.done(*world.pack(world.package))
        world.done(
            *("policy", "create", "--measurements", measurements, "--out", world.policy),
            *("--root", world.root / "root.der"),
        )
        yield world
    finally:
        kms.process.terminate()
        kms.process.wait(PATIENCE)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where a command may leave something: its working files and TMPDIR. Short, since sockets have their paths here."""
    folder = Path(tempfile.mkdtemp(prefix="eml-"))
    yield folder
    for pid in processes(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder)


Start = Callable[..., Command]


@pytest.fixture
def start(world: World, scratch: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a command with `scratch` as its TMPDIR."""
    started: list[Command] = []

    def call(*arguments: object, profile: str = "owner", group: bool = False, **environment: str) -> Command:
        variables = world.environment(profile) | {"TMPDIR": str(scratch)} | environment
        folder = tmp_path / f"command{len(started)}"
        started.append(Command(folder, *arguments, environment=variables, group=group))
        return started[-1]

    yield call
    for command in started:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        yield server


def port(server: socket.socket) -> int:
    number: int = server.getsockname()[1]
    return number


@contextmanager
def asked(server: socket.socket) -> Iterator[None]:
    """Somebody has connected and said something, and waits for an answer."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(PATIENCE)
        assert connection.recv(1)
        yield


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes(folder: Path) -> list[int]:
    """Processes that have `folder` in their command line, the enclave's own process included."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.fsencode(f"{folder}/") in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def nothing_left(folder: Path) -> bool:
    return not processes(folder) and not list(folder.iterdir())


# A full disk.


def assert_no_space(ended: Ended, out: Path) -> None:
    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert str(out) in ended.err
    assert "[package.no_space]" in ended.err
    assert ended.out == ""


def test_packing_beyond_the_largest_file_allowed(world: World, start: Start, scratch: Path) -> None:
    # A limit on the process takes effect long before its imports are done.
    command = start(*world.pack(scratch / "package"))
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (32 * 1024, 32 * 1024))
    assert_no_space(command.end(), scratch / "package")
    assert nothing_left(scratch)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a disk that is full takes root, to mount one")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a disk that is full takes the right to mount one: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_packing_onto_a_full_disk(world: World, start: Start, scratch: Path) -> None:
    with small_disk(scratch, "64k") as disk:
        assert_no_space(start(*world.pack(disk / "package")).end(), disk / "package")
        assert list(disk.iterdir()) == []


def test_packing_onto_a_disk_that_is_just_large_enough(world: World, start: Start, scratch: Path) -> None:
    with small_disk(scratch, "256k") as disk:
        assert start(*world.pack(disk / "package")).end().status == 0
        assert [path.name for path in disk.iterdir()] == ["package"]


def test_a_kms_without_room_for_its_credentials_starts_later(start: Start, scratch: Path) -> None:
    command = start(*serve_kms(scratch))
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (200, 200))
    ended = command.end()
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert f"{scratch}/kms/credentials" in ended.err
    assert list((scratch / "kms").iterdir()) == []
    again = start(*serve_kms(scratch))
    again.wait_for("serving on ")
    assert again.interrupt().status == 130


@pytest.fixture(scope="module")
def relay(world: World) -> Iterator[str]:
    """The relay of a host that serves the package."""
    command = Command(world.folder / "host", *world.host(), environment=world.environment("host"))
    try:
        yield command.relay()
    finally:
        command.process.terminate()
        command.process.wait(PATIENCE)


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.jsonl", "vectors.parquet"])
def test_vectors_are_written_whole_or_not_at_all(
    world: World, start: Start, scratch: Path, relay: str, name: str
) -> None:
    out = scratch / name
    embed = ("embed", *["a text"] * 100, "--policy", world.policy, "--address", relay, "--out", out)
    command = start(*embed)
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (8192, 8192))
    ended = command.end()
    assert ended.status == 1
    # What was answered would have been kept there for the next run.
    assert ended.err.splitlines()[-1] == f"ephemeralml: {out}.part: File too large"
    assert [path.name for path in scratch.iterdir()] == [f"{name}.part"]
    out.write_text("of another run")
    assert start(*embed).end().status == 0
    assert [path.name for path in scratch.iterdir()] == [name]
    if out.suffix == ".npy":
        assert np.load(out).shape == (100, 32)
    elif out.suffix == ".parquet":
        assert read_table(out).shape == (100, 2)
    else:
        assert len(out.read_text().splitlines()) == 100


@pytest.mark.parametrize("name", ["vectors.jsonl", "vectors.parquet"])
def test_a_disk_without_room_for_the_texts_costs_no_answer(
    world: World, start: Start, scratch: Path, relay: str, name: str
) -> None:
    out, corpus = scratch / name, scratch.with_name(f"{scratch.name}.txt")
    # Their vectors take 25 KB, and no compression makes 200 KB of these small.
    corpus.write_text("".join(f"{os.urandom(500).hex()}\n" for _ in range(200)))
    embed = ("embed", "--file", corpus, "--policy", world.policy, "--address", relay, "--out", out)
    command = start(*embed)
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    ended = command.end()
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == f"ephemeralml: {out}: File too large"
    assert [path.name for path in scratch.iterdir()] == [f"{name}.part"]
    again = start(*embed).end()
    corpus.unlink()
    assert again.status == 0
    assert again.err.splitlines()[-1] == "went on after 200 texts that were answered before"
    assert [path.name for path in scratch.iterdir()] == [name]


def test_a_terminal_is_shown_how_vectors_begin(world: World, scratch: Path, relay: str) -> None:
    embed = ("embed", "a text", "another text", "--policy", str(world.policy), "--address", relay)
    command = [sys.executable, "-m", "ephemeralml.cli", *embed]
    with Terminal(command, environment=world.environment(), folder=scratch) as terminal:
        status, shown = terminal.end()
    assert status == 0
    vectors = [json.loads(line)["vector"] for line in world.done(*embed).splitlines()]
    *_, one, two, hint = shown.splitlines()
    for number, (line, vector) in enumerate(zip((one, two), vectors, strict=True), 1):
        begins = "".join(f" {value:7.4f}" for value in vector[:6])
        assert line == f"text {number}: 32 numbers,{begins} …"
    assert "--out" in hint


# A damaged package.


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "name", "code"),
    [
        (shorten, f"{WEIGHTS}.enc", "artifact.truncated"),
        (shorten, "manifest.cose", "manifest.malformed"),
        (Path.unlink, "tokenizer.json.enc", "package.missing"),
    ],
    ids=["weights truncated", "manifest truncated", "tokenizer missing"],
)
def test_a_damaged_package_is_not_served(
    world: World, start: Start, scratch: Path, tmp_path: Path, *, damage: Callable[[Path], None], name: str, code: str
) -> None:
    package = tmp_path / "damaged"
    shutil.copytree(world.package, package)
    damage(package / name)
    ended = start(*world.host(package), profile="host").end()
    assert ended.status == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("ephemeralml: the enclave did not boot: ")
    assert name.partition(".")[0] in last
    assert f" [{code}] docs/errors.md#" in last
    assert nothing_left(scratch)


def test_a_configuration_that_is_not_there_is_said_before_anything_starts(
    world: World, start: Start, scratch: Path
) -> None:
    ended = start("host", "run", world.package, "--configuration", scratch / "no.json", "--root", world.root).end()
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert f"{scratch}/no.json" in ended.err
    assert nothing_left(scratch)


# A port in use, a KMS that is not there.


def test_a_relay_port_in_use(world: World, start: Start, scratch: Path, silent: socket.socket) -> None:
    ended = start(*world.host(relay=f"tcp://127.0.0.1:{port(silent)}"), profile="host").end()
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert f"cannot listen on tcp://127.0.0.1:{port(silent)}: " in ended.err
    assert ended.err.endswith("[address.in_use] docs/errors.md#address\n")
    assert nothing_left(scratch)


def test_a_kms_port_in_use(start: Start, scratch: Path, silent: socket.socket) -> None:
    ended = start(*serve_kms(scratch, port=port(silent))).end()
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port(silent)}: Address already in use; stop what uses" in ended.err
    assert ended.err.endswith("[kms.address] docs/errors.md#kms\n")
    # What it made first is whole: another port will do.
    again = start(*serve_kms(scratch))
    again.wait_for("serving on ")
    assert again.interrupt().status == 130


@pytest.mark.parametrize(
    ("endpoint", "profile", "status", "code"),
    [
        ("http://127.0.0.1:1", "owner", 1, "kms.unreachable"),
        ("nonsense", "owner", 2, "kms.client"),
        (None, "nobody", 2, "kms.client"),
    ],
    ids=["nobody there", "no address", "no such profile"],
)
def test_a_key_that_cannot_be_made(world: World, endpoint: str | None, profile: str, status: int, code: str) -> None:
    measurements = world.folder / "measurements.json"
    ended = world.run(
        *("kms", "create-key", "--measurements", measurements, "--endpoint", endpoint or world.kms), profile=profile
    )
    assert (ended.status, ended.out) == (status, "")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith(f"[{code}] docs/errors.md#kms\n")


@pytest.mark.parametrize("body", [b"{}", b"<html>"])
def test_a_key_from_something_that_is_no_kms(world: World, silent: socket.socket, body: bytes) -> None:
    def answer() -> None:
        connection, _ = silent.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    thread = threading.Thread(target=answer)
    thread.start()
    endpoint = f"http://127.0.0.1:{port(silent)}"
    measurements = world.folder / "measurements.json"
    ended = world.run("kms", "create-key", "--measurements", measurements, "--endpoint", endpoint)
    thread.join()
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("[kms.answer] docs/errors.md#kms\n")


# Ctrl-C. Every command ends with 130, a server that serves included.


def assert_interrupted(ended: Ended) -> None:
    assert ended.status == 130
    assert ended.out == ""
    assert ended.err in {"", "stopped\n"}


def test_ctrl_c_while_the_command_is_imported(start: Start, scratch: Path, tmp_path: Path) -> None:
    slow = tmp_path / "typer"
    slow.mkdir()
    (slow / "__init__.py").write_text("import time\nprint('importing')\ntime.sleep(60)")
    command = start("keygen", scratch / "owner.key", PYTHONPATH=str(tmp_path))
    command.wait_for("importing")
    ended = command.interrupt()
    assert ended.status == 130
    assert ended.err == "stopped\n"
    assert nothing_left(scratch)


def test_ctrl_c_while_pack_waits_for_kms(world: World, start: Start, scratch: Path, silent: socket.socket) -> None:
    command = start(*world.pack(scratch / "package", kms=f"http://127.0.0.1:{port(silent)}"))
    with asked(silent):
        assert_interrupted(command.interrupt())
    assert nothing_left(scratch)


def test_ctrl_c_while_pack_encrypts(world: World, start: Start, scratch: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    # Holes: nothing on this disk, seconds of encryption.
    os.truncate(model / WEIGHTS, 4 << 30)
    command = start(*world.pack(scratch / "package", model=model))

    def halfway() -> bool:
        found = list(scratch.glob(f".*.partial/{WEIGHTS}.enc"))
        return bool(found) and found[0].stat().st_size > 1 << 20

    await_(halfway)
    assert_interrupted(command.interrupt())
    assert nothing_left(scratch)


def test_ctrl_c_while_embed_waits_for_evidence(
    world: World, start: Start, scratch: Path, silent: socket.socket
) -> None:
    command = start(
        *("embed", "a text", "--policy", world.policy, "--address", f"tcp://127.0.0.1:{port(silent)}"),
        *("--out", scratch / "vectors.npy", "--receipt", scratch / "proof.aer"),
    )
    with asked(silent):
        assert_interrupted(command.interrupt())
    assert nothing_left(scratch)


def test_ctrl_c_while_the_host_serves(world: World, start: Start, scratch: Path) -> None:
    command = start(*world.host(), profile="host")
    relay = command.relay()
    with Client(relay, policy=Policy.load(world.policy)) as client:
        client.embed(["a text"])
        # The enclave and the command that runs it.
        assert len(processes(scratch)) == 2
        assert len(list(scratch.glob("*/*.sock"))) == 2
        ended = command.interrupt()
    assert ended.status == 130
    assert nothing_left(scratch)


def test_an_enclave_that_is_killed_is_started_again(world: World, start: Start, scratch: Path) -> None:
    host = start(*world.host(), profile="host")
    with Client(host.relay(), policy=Policy.load(world.policy)) as client:
        client.embed(["a text"])
        for pid in processes(scratch):
            os.kill(pid, signal.SIGKILL)
        await_(lambda: host.said().count("host: ready ") == 2)
        client.embed(["a text"])
        assert client.attestations == 2
    assert host.said().count("host: enclave failed ") == 1
    assert host.interrupt().status == 130
    assert nothing_left(scratch)


def test_ctrl_c_while_the_host_waits_for_kms(world: World, start: Start, scratch: Path, silent: socket.socket) -> None:
    command = start(*world.host(kms=f"http://127.0.0.1:{port(silent)}"), profile="host")
    with asked(silent):
        before = time.monotonic()
        assert_interrupted(command.interrupt())
    # With its retries, the question to KMS would go on for half a minute.
    assert time.monotonic() - before < 15
    assert nothing_left(scratch)


def test_ctrl_c_while_the_enclave_boots(world: World, start: Start, scratch: Path, silent: socket.socket) -> None:
    command = start(
        *("enclave", "run", world.configuration, "--root", world.root, "--listen", f"unix://{scratch}/enclave"),
        *("--host", f"tcp://127.0.0.1:{port(silent)}"),
    )
    with asked(silent):
        assert len(processes(scratch)) == 2
        assert_interrupted(command.interrupt())
    assert nothing_left(scratch)


@pytest.mark.parametrize("between", ["unix", "hybrid vsock"])
def test_ctrl_c_while_an_enclave_of_its_own_serves(world: World, start: Start, scratch: Path, between: str) -> None:
    if between == "unix":
        listen, services = f"unix://{scratch}/enclave", f"unix://{scratch}/services"
        inside = ["--listen", listen, "--host", services]
    else:
        listen, services = f"vsock+unix://{scratch}/v:5000", f"vsock+unix://{scratch}/v:5001"
        inside = ["--listen", "vsock://any:5000", "--host", "vsock://2:5001", "--vsock", f"{scratch}/v"]
    kms = ("--kms-endpoint", world.kms, "--relay", "tcp://127.0.0.1:0")
    host = start("host", "run", world.package, "--connect", listen, "--services", services, *kms, profile="host")
    await_(Path(Address.parse(services).listening_path).exists)
    enclave = start("enclave", "run", world.configuration, "--root", world.root, *inside)
    relay = host.relay()
    with Client(relay, policy=Policy.load(world.policy)) as client:
        client.embed(["a text"])
        assert enclave.interrupt().status == 130
    assert processes(scratch) == [host.process.pid]
    assert host.interrupt().status == 130
    assert processes(scratch) == []
    # No socket file stays behind.
    assert not any(path.is_socket() for path in scratch.rglob("*"))


def test_ctrl_c_while_kms_serves(start: Start, scratch: Path) -> None:
    command = start(*serve_kms(scratch))
    address = command.wait_for("serving on http://").split(":")
    # One who has not finished asking does not hold it up.
    with socket.create_connection((address[0], int(address[1])), PATIENCE) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: kms\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        assert command.interrupt().status == 130
    assert processes(scratch) == []
    again = start(*serve_kms(scratch))
    again.wait_for("serving on ")
    assert again.interrupt().status == 130


def test_ctrl_c_in_the_demo(world: World, start: Start, scratch: Path) -> None:
    command = start("demo", "--model", world.model, group=True)
    command.wait_for("The untrusted host starts")
    ended = command.interrupt()
    assert ended.status == 130
    assert ended.err in {"", "stopped\n"}
    assert nothing_left(scratch)


@pytest.mark.slow
def test_the_demo_runs_with_another_model(world: World, start: Start, scratch: Path) -> None:
    ended = start("demo", "--model", world.model).end()
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("\u2717") == 7
    assert "NOT CONFIDENTIAL" in ended.out
    assert nothing_left(scratch)
