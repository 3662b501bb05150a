"""How an enclave is started: the interface each platform has, and the local one, a command on this machine."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.session.transport import Address

_STOP_SECONDS: Final = 10
# What our own commands end with when an argument or a file cannot work.
_USAGE: Final = 2


class EnclaveFailedError(EphemeralMLError):
    """The enclave did not start, reported a failed boot, or ended. `passing`: another start may do better."""

    def __init__(self, message: str, *, code: str, passing: bool) -> None:
        super().__init__(message, code=code)
        self.passing = passing


class RunningEnclave(Protocol):
    """A started enclave, which listens at `address` once it reports ``ready``."""

    @property
    def address(self) -> Address:
        """Where the relay finds it."""

    async def wait(self) -> EnclaveFailedError:
        """Wait until it has ended by itself; says how it did."""

    async def stop(self) -> None:
        """End it, if it has not ended; never raises."""


class Launcher(Protocol):
    """Starts enclaves of one platform, one after the other."""

    async def start(self) -> RunningEnclave:
        """Start one. Raises `ConfigurationError` or `EnclaveFailedError`; nothing runs then, nor when cancelled."""


async def wait_or_kill(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was told to end; one that does not in 10 seconds is killed."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class LocalLauncher:
    """Runs `command` for an address in `folder`: an enclave that listens there for as long as the command lasts."""

    def __init__(self, command: Callable[[Address], Sequence[str]], *, folder: Path) -> None:
        self._command = command
        self._folder = folder
        self._numbers = itertools.count(1)

    async def start(self) -> RunningEnclave:
        """Raises `ConfigurationError` when there is no such command."""
        # Each its own: two may run while one takes the other's place.
        address = Address("unix", path=str(self._folder / f"enclave-{next(self._numbers)}.sock"))
        command = self._command(address)
        try:
            # Its own process group: a Ctrl-C at the terminal is ours to pass on, in order.
            process = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        except OSError as error:
            raise ConfigurationError(f"cannot start {command[0]}: {error.strerror}", code="enclave.launch") from error
        return _LocalEnclave(process, address)


class _LocalEnclave:
    def __init__(self, process: asyncio.subprocess.Process, address: Address) -> None:
        self.address = address
        self._process = process

    async def wait(self) -> EnclaveFailedError:
        status = await self._process.wait()
        return EnclaveFailedError(
            f"the enclave's process ended (exit status {status}); its console above says why",
            code="enclave.ended",
            passing=status != _USAGE,
        )

    async def stop(self) -> None:
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        await wait_or_kill(self._process)
