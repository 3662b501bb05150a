"""Checks of the machine: on this one, and on ones that lack something."""

from __future__ import annotations

import resource
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ephemeralml.host.doctor import machine
from ephemeralml.host.doctor.finding import Finding, State, ready

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SYNCHRONISED = (0, 0)
UNSYNCHRONISED = (5, 0x0040)


def test_ready_means_nothing_failed_and_nothing_unknown() -> None:
    fine = [Finding.ok("a", ""), Finding.not_applicable("b", "")]
    assert ready(fine)
    assert not ready([*fine, Finding.failed("c", "", "mend it")])
    assert not ready([*fine, Finding.unknown("d", "", "look")])


def test_python() -> None:
    assert machine.python_version().state is State.OK
    assert machine.python_version((3, 10)).state is State.FAILED
    assert machine.python_version((4, 0)).state is State.OK


def test_packages_that_are_there() -> None:
    assert machine.packages(["json", "cbor2"], extra="host").state is State.OK


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_anywhere", "broken: ModuleNotFoundError"),
        ("raise RuntimeError('wrong CPU')", "broken: RuntimeError: wrong CPU"),
        # What an extension does that was built for another CPU.
        ("import os; os.kill(os.getpid(), 4)", "status -4"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = machine.packages(["json", "broken"], extra="host")
    assert found.state is State.FAILED
    assert said in found.reason
    assert "ephemeralml[host]" in found.fix


def test_the_model() -> None:
    assert machine.model("json").state is State.OK
    assert machine.model("no_such_module_anywhere").state is State.FAILED


def test_memory(tmp_path: Path) -> None:
    assert machine.memory_available(1).state is State.OK
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  614400 kB\n")
    assert machine.memory_available(600, meminfo=meminfo).state is State.OK
    assert machine.memory_available(601, meminfo=meminfo).state is State.FAILED
    for text in ("", "MemAvailable: many kB\n", "MemAvailable:\n"):
        meminfo.write_text(text)
        assert machine.memory_available(1, meminfo=meminfo).state is State.UNKNOWN
    assert machine.memory_available(1, meminfo=tmp_path / "none").state is State.UNKNOWN


def test_disk(tmp_path: Path) -> None:
    assert machine.disk_space(tmp_path, 0).state is State.OK
    assert machine.disk_space(tmp_path, 1 << 40).state is State.FAILED
    assert machine.disk_space(tmp_path / "none", 0).state is State.FAILED


def test_open_files() -> None:
    assert machine.descriptor_limit(resource.RLIM_INFINITY).state is State.OK
    assert machine.descriptor_limit(1 << 16).state is State.OK
    found = machine.descriptor_limit(1024)
    assert found.state is State.FAILED
    assert "LimitNOFILE" in found.fix


def test_a_relay_address_that_is_free_and_stays_so() -> None:
    for _ in range(2):
        assert machine.relay_address("tcp://127.0.0.1:0").state is State.OK
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        found = machine.relay_address(address)
    assert found.state is State.FAILED
    assert address in found.reason
    assert machine.relay_address(address).state is State.OK


@pytest.mark.parametrize("address", ["7001", "tcp://192.0.2.1:7001", "tcp://127.0.0.1:70000", "unix:///none/r.sock"])
def test_a_relay_address_that_cannot_be(address: str) -> None:
    assert machine.relay_address(address).state is State.FAILED


def test_a_relay_on_a_unix_socket(tmp_path: Path) -> None:
    assert machine.relay_address(f"unix://{tmp_path}/relay.sock").state is State.OK
    assert list(tmp_path.iterdir()) == []


def test_the_kernels_clock_can_be_read() -> None:
    state, status = machine.kernel_clock()
    # adjtimex(2): TIME_OK to TIME_ERROR, and TIME_ERROR is what an unsynchronised clock has.
    assert 0 <= state <= 5
    if status & 0x0040:
        assert state == 5


def test_clock() -> None:
    def clock(off: float | None, kernel: tuple[int, int]) -> Finding:
        server = None if off is None else NOW + timedelta(seconds=off)
        return machine.clock(server=server, now=NOW, read=lambda: kernel)

    assert clock(0, SYNCHRONISED).state is State.OK
    assert clock(-60, SYNCHRONISED).state is State.OK
    assert clock(None, SYNCHRONISED).state is State.OK
    assert clock(0, UNSYNCHRONISED).state is State.FAILED
    for off in (61, -61):
        found = clock(off, SYNCHRONISED)
        assert found.state is State.FAILED
        assert "61 s" in found.reason


def test_a_kernel_that_does_not_tell() -> None:
    def read() -> tuple[int, int]:
        raise OSError(1, "Operation not permitted")

    assert machine.clock(server=NOW, now=NOW, read=read).state is State.UNKNOWN
