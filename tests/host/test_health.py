"""An enclave that hangs is noticed; one that is alive never is taken for one, however busy or full it is."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import gated
import pytest
from gated import Gate, await_

from ephemeralml.errors import TransportError
from ephemeralml.host import health
from ephemeralml.host.health import Health, hangs
from ephemeralml.session.transport import Address, connect

QUICK = Health(every=0.2, misses=2)
# The enclave takes this many of one peer, and all of the relay's are one.
MANY = 600


@pytest.fixture
def enclave(tmp_path: Path, tiny_model: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real enclave in a process of its own, which listens."""
    command = [sys.executable, gated.__file__, str(tmp_path), str(tiny_model), "10"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    await_((tmp_path / "enclave").exists)
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def asked(folder: Path, *, seconds: float) -> str | None:
    """The code of the failure that is found in that time, if one is."""

    async def main() -> str | None:
        try:
            async with asyncio.timeout(seconds):
                return (await hangs(Address("unix", path=f"{folder}/enclave"), QUICK)).code
        except TimeoutError:
            return None

    return asyncio.run(main())


def test_a_stopped_process_hangs_and_one_that_goes_on_does_not(
    enclave: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert asked(tmp_path, seconds=2) is None
    os.kill(enclave.pid, signal.SIGSTOP)
    assert asked(tmp_path, seconds=60) == "enclave.hung"
    os.kill(enclave.pid, signal.SIGCONT)
    assert asked(tmp_path, seconds=2) is None


@pytest.mark.usefixtures("enclave")
def test_an_engine_at_work_is_no_hang(tmp_path: Path) -> None:
    Gate(tmp_path).shut()
    assert asked(tmp_path, seconds=2) is None
    Gate(tmp_path).open()


@pytest.mark.usefixtures("enclave")
def test_clients_who_take_every_place_do_not_get_an_enclave_killed(tmp_path: Path) -> None:
    address = Address("unix", path=f"{tmp_path}/enclave")
    silent: list[socket.socket] = []

    def all_there() -> bool:
        # The kernel's own queue may be full for a moment.
        with suppress(TransportError):
            while len(silent) < MANY:
                silent.append(connect(address, timeout=10))
        return len(silent) == MANY

    await_(all_there)
    assert asked(tmp_path, seconds=2) is None
    for one in silent:
        one.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_host_itself_lacks_is_no_hang_of_the_enclaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def lacking(_: Address) -> None:
        raise TransportError("cannot reach it", code="transport.unreachable") from OSError(number, os.strerror(number))

    monkeypatch.setattr(health, "open_stream", lacking)
    assert asked(tmp_path, seconds=1) is None


def test_nobody_at_the_address_hangs_too(tmp_path: Path) -> None:
    assert asked(tmp_path, seconds=60) == "enclave.hung"
