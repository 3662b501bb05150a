"""Keeps one enclave running: waits until it is ready, opens the relay to it, and starts it again when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ephemeralml.host.launch import EnclaveFailedError, Launcher
from ephemeralml.host.relay import Relay

# A failed boot is tried again only for these reasons: they lie with the network or a service. Any other answer (KMS
# denied the key, the package is damaged or too old) will be the same next time, and asking on would only hide it.
_PASSING_CODES: Final = frozenset(
    {
        "internal",
        "kms.credentials",
        "kms.refused",
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


class Supervisor:
    """Runs one enclave of `launcher` after the other behind `relay`; without a launcher, others start it.

    `on_ready` hears the boot times of each enclave that serves; `on_restart` of each failure, and in how many seconds
    the next one starts.
    """

    def __init__(
        self,
        launcher: Launcher | None,
        *,
        relay: Relay,
        restarts: Restarts,
        on_ready: Callable[[str], None],
        on_restart: Callable[[EnclaveFailedError, float], None],
    ) -> None:
        self._launcher = launcher
        self._relay = relay
        self._restarts = restarts
        self._on_ready = on_ready
        self._on_restart = on_restart
        self._loop = asyncio.get_running_loop()
        self._booted: asyncio.Future[str | EnclaveFailedError] = self._loop.create_future()
        self._failures = 0

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

    async def _live(self, launcher: Launcher) -> NoReturn:
        """One enclave from its start to its end."""
        self._booted = self._loop.create_future()
        # Whoever is still joined to the enclave before this one would wait for answers that nobody gives.
        await self._relay.part()
        enclave = await launcher.start()
        steady: asyncio.TimerHandle | None = None
        ended = asyncio.ensure_future(enclave.wait())
        try:
            first: list[asyncio.Future[Any]] = [ended, self._booted]
            await asyncio.wait(first, timeout=self._restarts.boot, return_when=asyncio.FIRST_COMPLETED)
            if self._booted.done():
                self._serving(self._booted.result())
                self._relay.enclave = enclave.address
                steady = self._loop.call_later(self._restarts.steady, self._forgive)
            elif not ended.done():
                raise EnclaveFailedError(
                    f"the enclave was not ready {self._restarts.boot:g} s after its start; its console says how far it "
                    "came, and whether it reaches this host's services",
                    code="enclave.boot_timeout",
                    passing=True,
                )
            raise await ended
        finally:
            self._relay.enclave = None
            ended.cancel()
            if steady is not None:
                steady.cancel()
            await enclave.stop()

    def _serving(self, booted: str | EnclaveFailedError) -> None:
        if isinstance(booted, EnclaveFailedError):
            raise booted
        self._on_ready(booted)

    def _forgive(self) -> None:
        self._failures = 0
