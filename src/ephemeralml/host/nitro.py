"""Enclaves of a Nitro-capable EC2 instance: started through `nitro-cli`, compared with what was asked for, watched."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ephemeralml.attestation import Measurements
from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.host import nitro_cli
from ephemeralml.host.launch import EnclaveFailedError, RunningEnclave
from ephemeralml.host.nitro_cli import Described, Started, printable
from ephemeralml.session.transport import Address

# What the image is built with: where it listens, and where it looks for its host (at CID 3).
ENCLAVE_PORT: Final = 5000
SERVICES: Final = "vsock://any:5001"

# nitro-cli itself refuses less (ENCLAVE_MEMORY_EIF_SIZE_RATIO).
_MEMORY_TO_EIF: Final = 4
_MIB: Final = 1024 * 1024
# What a start that is under way gets to end when the host stops: killed halfway, it could leave an enclave.
_STOP_SECONDS: Final = 20
_LAST_WORDS_SECONDS: Final = 2
_READ_BYTES: Final = 4096

_log = logging.getLogger("ephemeralml.host")


class WrongEnclaveError(EnclaveFailedError):
    """What runs is not what was asked for: other measurements, or debug mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroLauncher:
    """Starts `eif` with `cpus` vCPUs and `memory` MiB, at `cid` or one that nitro-cli chooses.

    `expected` measurements are compared with what nitro-cli computed from the file. That saves an operator from the
    wrong image; it proves nothing to anybody, since this host could lie: clients and KMS judge by attestation alone.

    An enclave bears the name of the host's `services` address. A host listens there before it starts one, and nobody
    else can meanwhile: an enclave of that name that is found at a start was left by a host that was killed, and is
    terminated. No other ever is. `address` is where the enclave listens if not at ``vsock://CID:5000``; `on_console`
    hears the lines of its console, which there are in `debug` mode only.
    """

    eif: Path
    cpus: int
    memory: int
    services: Address
    on_console: Callable[[str], None]
    cid: int | None = None
    debug: bool = False
    expected: Measurements | None = None
    address: Address | None = None
    # Two may run while one takes the other's place.
    _mine: set[str] = field(default_factory=set, init=False, repr=False)

    @property
    def name(self) -> str:
        """The enclave's, in nitro-cli's list."""
        return f"ephemeralml {self.services}"

    async def start(self) -> RunningEnclave:
        """Raises `ConfigurationError` for what cannot work, `NitroCliError`, and `WrongEnclaveError`."""
        self._check_memory()
        await self._terminate_leftovers()
        started = await self._run()
        enclave = None
        try:
            address = self.address or Address.parse(f"vsock://{started.cid}:{ENCLAVE_PORT}")
            enclave = _NitroEnclave(started, address, mine=self._mine)
            # Held by its descriptor from here on: what is described now cannot be another process of the same number.
            self._check(started, await nitro_cli.describe())
            if self.debug:
                await enclave.show_console(self.on_console)
        except BaseException:
            await (enclave.stop() if enclave else _terminate(started.identity))
            raise
        return enclave

    def _check_memory(self) -> None:
        try:
            size = self.eif.stat().st_size
        except OSError as error:
            raise ConfigurationError(f"enclave image {self.eif}: {error.strerror}", code="nitro.eif") from error
        if size * _MEMORY_TO_EIF > self.memory * _MIB:
            raise ConfigurationError(
                f"{self.eif} has {size} bytes and an enclave needs {_MEMORY_TO_EIF} times its image: give at least "
                f"--memory {-(-size * _MEMORY_TO_EIF // _MIB)} (MiB), and set as much aside in "
                "/etc/nitro_enclaves/allocator.yaml",
                code="nitro.memory_requested",
            )

    async def _terminate_leftovers(self) -> None:
        for enclave in await nitro_cli.describe():
            if enclave.name == self.name and enclave.identity not in self._mine:
                _log.warning(
                    "terminating enclave %s, which a host that was killed has left",
                    enclave.identity,
                    extra={"event": "enclave left", "fields": {"enclave": enclave.identity}},
                )
                await nitro_cli.terminate(enclave.identity)

    async def _run(self) -> Started:
        running = asyncio.ensure_future(
            nitro_cli.run(
                eif=self.eif, cpus=self.cpus, memory=self.memory, cid=self.cid, name=self.name, debug=self.debug
            )
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            with suppress(EphemeralMLError, TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await _terminate((await running).identity)
            raise

    def _check(self, started: Started, enclaves: list[Described]) -> None:
        found = [one for one in enclaves if (one.identity, one.process) == (started.identity, started.process)]
        if started.name != self.name or len(found) != 1 or found[0].state != "RUNNING":
            raise EnclaveFailedError(
                "the enclave ended as soon as it had started, or is not the one that was started; "
                "start it with --debug to see its console",
                code="nitro.gone",
                passing=True,
            )
        if found[0].flags != ("DEBUG_MODE" if self.debug else "NONE"):
            raise WrongEnclaveError(
                f"the enclave runs with the flags {found[0].flags}, which is not what was asked for: in debug mode the "
                "host can read its console, and no key is released to it",
                code="nitro.flags",
                passing=False,
            )
        for index, pcr in (self.expected.registers if self.expected else {}).items():
            # PCR3 and 4 are of this instance and its role: nitro-cli does not know them, attestation does.
            if index not in {3, 4} and found[0].pcrs.get(index) != pcr.hex():
                raise WrongEnclaveError(
                    f"{self.eif} is not the image that was expected: its PCR{index} is "
                    f"{found[0].pcrs.get(index, 'absent')}, expected {pcr.hex()}; check --eif and --measurements",
                    code="nitro.measurements",
                    passing=False,
                )


class _NitroEnclave:
    """An enclave, by the process of nitro-cli that holds it: each of the two ends with the other."""

    def __init__(self, started: Started, address: Address, *, mine: set[str]) -> None:
        self.address = address
        self._mine = mine
        self._identity = started.identity
        try:
            self._process = os.pidfd_open(started.process)
        except OSError as error:
            raise EnclaveFailedError(
                f"the enclave ended as soon as it had started ({error.strerror})", code="nitro.gone", passing=True
            ) from error
        self._console: asyncio.subprocess.Process | None = None
        self._showing: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()
        mine.add(started.identity)
        asyncio.get_running_loop().add_reader(self._process, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process)
        self._ended.set()

    async def wait(self) -> EnclaveFailedError:
        await self._ended.wait()
        return EnclaveFailedError(
            "the enclave ended: it crashed, was terminated, or ran out of memory; start it with --debug to see its "
            "console",
            code="enclave.ended",
            passing=True,
        )

    async def show_console(self, on_console: Callable[[str], None]) -> None:
        self._console = await nitro_cli.console(self._identity)
        self._showing = asyncio.ensure_future(show(self._console, on_console))

    async def stop(self) -> None:
        if not self._ended.is_set():
            await _terminate(self._identity)
        self._mine.discard(self._identity)
        asyncio.get_running_loop().remove_reader(self._process)
        os.close(self._process)
        if self._console is not None and self._showing is not None:
            # It ends with the enclave; its last lines may say why.
            await asyncio.wait({self._showing}, timeout=_LAST_WORDS_SECONDS)
            self._showing.cancel()
            await asyncio.wait({self._showing})
            await nitro_cli.end(self._console)


async def _terminate(identity: str) -> None:
    try:
        await nitro_cli.terminate(identity)
    except EphemeralMLError as error:
        if error.code == "nitro.gone":
            return
        _log.warning(
            "enclave %s may be left: %s; the next start terminates it",
            *(identity, error),
            extra={"event": "enclave may be left", "fields": {"enclave": identity, "code": error.code}},
        )


async def show(console: asyncio.subprocess.Process, on_console: Callable[[str], None]) -> None:
    """Tell of each line that a process writes on its standard output, until that ends."""
    assert console.stdout is not None
    lines = Lines()
    while chunk := await console.stdout.read(_READ_BYTES):
        for line in lines.feed(chunk):
            on_console(line)


class Lines:
    """Lines out of a console's bytes, each cut and cleaned as `printable` does; what follows the cut is dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes, but for empty ones."""
        *whole, rest = (self._rest + chunk).split(b"\n")
        # Enough for a line of the longest characters.
        self._rest = rest[:_READ_BYTES]
        return [line for line in map(printable, whole) if line]
