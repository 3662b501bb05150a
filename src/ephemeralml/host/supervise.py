"""Keeps one enclave running: waits until it is ready, opens the relay to it, starts it again when it ends or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from ephemeralml.errors import EphemeralMLError
from ephemeralml.host.health import Health, hangs
from ephemeralml.host.launch import EnclaveFailedError, Launcher, RunningEnclave
from ephemeralml.host.relay import Relay

# A failed boot is tried again only for these reasons: they lie with the network or a service. Any other answer (KMS
# denied the key, the package is damaged or too old) will be the same next time, and asking on would only hide it.
_PASSING_CODES: Final = frozenset(
    {
        "internal",
        "kms.credentials",
        "kms.throttled",
        "kms.unavailable",
        "kms.unreachable",
        "s3.credentials",
        "s3.unreachable",
        "transport.closed",
        "transport.timeout",
        "transport.unreachable",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """When an enclave is given up. Times in seconds.

    One that is not ready `boot` after its start has failed. After a failure comes a pause, `first_pause` long and then
    twice as long each time up to `longest_pause`; after `attempts` failures in a row, the end. An enclave that served
    for `steady` begins a new row.
    """

    boot: float = 180
    first_pause: float = 1
    longest_pause: float = 30
    attempts: int = 5
    steady: float = 60
    health: Health = field(default_factory=Health)


class Supervisor:
    """Runs one enclave of `launcher` after the other behind `relay`; without a launcher, others start it.

    `before_start` is awaited before each start. `on_ready` hears the boot times of each enclave that serves;
    `on_restart` of each failure, and in how many seconds the next one starts; `on_kept` why one did not take over.
    """

    def __init__(
        self,
        launcher: Launcher | None,
        *,
        relay: Relay,
        restarts: Restarts,
        before_start: Callable[[], Awaitable[None]],
        on_ready: Callable[[str], None],
        on_restart: Callable[[EnclaveFailedError, float], None],
        on_kept: Callable[[EphemeralMLError], None],
    ) -> None:
        self._launcher = launcher
        self._relay = relay
        self._restarts = restarts
        self._before_start = before_start
        self._on_ready = on_ready
        self._on_restart = on_restart
        self._on_kept = on_kept
        self._loop = asyncio.get_running_loop()
        self._booted: asyncio.Future[str | EnclaveFailedError] = self._loop.create_future()
        self._replace = asyncio.Event()
        self._failures = 0
        self._served = False

    @property
    def serving(self) -> bool:
        """Whether an enclave is ready and the relay leads to it."""
        return self._served and self._relay.enclave is not None

    async def on_state(self, state: str, code: str, message: str) -> None:
        """What the enclave says of itself: ``ready`` and its boot times, or why it did not boot."""
        if self._booted.done():
            return
        if state == "ready":
            self._booted.set_result(message)
        else:
            failure = f"the enclave did not boot: {message}"
            passing = code in _PASSING_CODES
            self._booted.set_result(EnclaveFailedError(failure, code=code or "enclave", passing=passing))

    async def run(self) -> None:
        """Until cancelled. Raises `EnclaveFailedError` when another start would not help, or too many did not.

        `ConfigurationError` comes from the launcher.
        """
        if self._launcher is None:
            self._serving(await self._booted)
            await asyncio.Event().wait()
        while self._launcher is not None:
            try:
                await self._live(self._launcher)
            except EnclaveFailedError as error:
                self._failures += 1
                if not error.passing:
                    raise
                if self._failures >= self._restarts.attempts:
                    raise EnclaveFailedError(
                        f"gave up after {self._failures} failures in a row; the last: {error}",
                        code=error.code,
                        passing=False,
                    ) from error
                pause = min(self._restarts.longest_pause, self._restarts.first_pause * 2 ** (self._failures - 1))
                self._on_restart(error, pause)
                await asyncio.sleep(pause)

    def replace(self) -> None:
        """Start another enclave beside the one that serves, and change over once it is ready."""
        self._replace.set()

    async def _live(self, launcher: Launcher) -> NoReturn:
        """One enclave from its start to its end, and those that took its place."""
        # Whoever is still joined to the enclave before this one would wait for answers that nobody gives.
        await self._relay.part()
        current = await self._boot(launcher)
        try:
            while True:
                self._relay.enclave = current.address
                told = asyncio.ensure_future(self._replace.wait())
                hung = asyncio.ensure_future(hangs(current.address, self._restarts.health))
                try:
                    await asyncio.wait({current.ended, told, hung}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    told.cancel()
                    hung.cancel()
                for failed in (current.ended, hung):
                    if failed.done() and not failed.cancelled():
                        raise failed.result()
                self._replace.clear()
                try:
                    successor = await self._boot(launcher)
                except EphemeralMLError as error:
                    self._on_kept(error)
                    continue
                # New connections go to the new one from here on; the old one's are ended by its stop.
                self._relay.enclave = successor.address
                retired, current = current, successor
                await retired.stop()
        finally:
            self._relay.enclave = None
            await current.stop()

    async def _boot(self, launcher: Launcher) -> _Watched:
        """An enclave that serves. Raises as its start does, or `EnclaveFailedError`; then nothing of it is left."""
        self._booted = self._loop.create_future()
        await self._before_start()
        watched = _Watched(await launcher.start())
        try:
            first: list[asyncio.Future[Any]] = [watched.ended, self._booted]
            await asyncio.wait(first, timeout=self._restarts.boot, return_when=asyncio.FIRST_COMPLETED)
            if self._booted.done():
                self._serving(self._booted.result())
            elif watched.ended.done():
                raise watched.ended.result()
            else:
                raise EnclaveFailedError(
                    f"the enclave was not ready {self._restarts.boot:g} s after its start; its console says how far it "
                    "came, and whether it reaches this host's services",
                    code="enclave.boot_timeout",
                    passing=True,
                )
        except BaseException:
            await watched.stop()
            raise
        watched.steady = self._loop.call_later(self._restarts.steady, self._forgive)
        return watched

    def _serving(self, booted: str | EnclaveFailedError) -> None:
        if isinstance(booted, EnclaveFailedError):
            raise booted
        self._served = True
        self._on_ready(booted)

    def _forgive(self) -> None:
        self._failures = 0


class _Watched:
    """A started enclave, its end if it comes, and the moment from which it counts as steady."""

    def __init__(self, enclave: RunningEnclave) -> None:
        self._enclave = enclave
        self.address = enclave.address
        self.ended = asyncio.ensure_future(enclave.wait())
        self.steady: asyncio.TimerHandle | None = None

    async def stop(self) -> None:
        self.ended.cancel()
        if self.steady is not None:
            self.steady.cancel()
        await self._enclave.stop()
