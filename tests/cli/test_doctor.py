"""`ephemeralml doctor` on this machine: what it prints, and its exit status."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from eif import forge
from samples import OWNER, make_manifest

from ephemeralml.cli import main
from ephemeralml.devcloud.qemu import PACKAGES, _place


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class Doctor:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        self._monkeypatch.setattr(sys, "argv", ["ephemeralml", "doctor", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), self._capsys.readouterr().out

    def checks(self, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        status, out = self(*arguments, "--json")
        answer = json.loads(out)
        assert answer["ready"] == (status == 0)
        return status, {item["check"]: item for item in answer["checks"]}


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(monkeypatch, capsys)


def test_where_this_suite_runs_the_local_platform_is_ready(doctor: Doctor) -> None:
    status, checks = doctor.checks("--relay", "tcp://127.0.0.1:0")
    wrong = [item for item in checks.values() if item["state"] != "ok"]
    assert (status, wrong) == (0, [])
    status, out = doctor("--relay", "tcp://127.0.0.1:0")
    assert status == 0
    assert "local: ready" in out


def test_a_taken_port_is_named_with_its_fix(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        status, out = doctor("--relay", address)
    assert status == 1
    assert "local: not ready: relay" in out
    assert address in out
    assert "→ stop what listens there" in out


def test_what_is_not_ready_for_nitro_comes_with_a_fix(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, checks = doctor.checks("--platform", "nitro", "--memory", "2048", "--relay", "tcp://127.0.0.1:0")
    assert status == 1
    assert {name: item["state"] for name, item in checks.items() if name in {"nitro-cli", "image", "role", "key"}} == {
        "nitro-cli": "failed",
        "image": "unknown",
        "role": "failed",
        "key": "unknown",
    }
    assert all(bool(item["fix"]) == (item["state"] in {"failed", "unknown"}) for item in checks.values())
    assert "2048" in checks["enclave memory"]["reason"]


def test_nitro_cli_and_an_image_change_what_is_found(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "nitro-cli"
    stand_in.write_text("#!/bin/sh\necho Nitro CLI 1.4.2\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    eif = tmp_path / "enclave.eif"
    eif.write_bytes(forge())
    _, checks = doctor.checks("--platform", "nitro", "--eif", str(eif), "--package", str(tmp_path))
    assert checks["nitro-cli"]["reason"] == "Nitro CLI 1.4.2"
    assert checks["image"]["state"] == "ok"
    assert "manifest.cose is missing" in checks["package"]["reason"]


def test_a_virtual_machine_takes_a_qemu_and_an_image(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPHEMERALML_CACHE", str(tmp_path / "cache"))
    here = ("--platform", "vm", "--memory", "64", "--relay", "tcp://127.0.0.1:0")
    status, checks = doctor.checks(*here)
    assert status == 1
    assert {name for name, item in checks.items() if item["state"] != "ok"} == {"qemu", "image"}
    assert "setup_vm.sh" in checks["qemu"]["fix"]
    # Where setup_vm.sh would have unpacked it.
    _place(PACKAGES).mkdir(parents=True)
    eif = tmp_path / "enclave.eif"
    eif.write_bytes(forge())
    status, checks = doctor.checks(*here, "--eif", str(eif))
    assert (status, {item["state"] for item in checks.values()}) == (0, {"ok"})
    assert "emulates" in checks["qemu"]["reason"]


def test_the_package_is_to_be_by_the_owner_of_the_configuration(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "manifest.cose").write_bytes(make_manifest().sign(OWNER))
    configuration = tmp_path / "enclave.json"
    for key, said in ((OWNER.public_key().public_bytes_raw(), "is missing"), (b"x" * 32, "not by the model owner")):
        configuration.write_text(json.dumps({"model_owner": key.hex()}))
        options = ("--package", str(tmp_path), "--configuration", str(configuration))
        _, checks = doctor.checks("--platform", "nitro", *options)
        assert said in checks["package"]["reason"]
    assert doctor("--configuration", str(tmp_path / "none"))[0] == 2


def test_what_is_found_is_no_markup(doctor: Doctor) -> None:
    _, out = doctor("--platform", "nitro", "--package", "[bold]/x[/bold]", "--eif", "[red]")
    assert "no package at [bold]/x[/bold]" in " ".join(out.split())
    assert "[red]: No such file" in out
