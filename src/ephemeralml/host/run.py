"""One host process: relay, services, and the enclave it starts or connects to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.host.relay import Relay, Relayed
from ephemeralml.host.services import Services
from ephemeralml.package import ArtifactSource
from ephemeralml.session.transport import Address, listen, raise_descriptor_limit, serve

_STOP_SECONDS = 10


class EnclaveFailedError(EphemeralMLError):
    """The enclave reported a failed boot, or its process ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """Where the host listens for clients (`relay`) and for its enclave (`services`), and where the enclave listens.

    `launch` is the command that starts the enclave, empty when something else does.
    """

    relay: Address
    services: Address
    enclave: Address
    launch: Sequence[str] = ()
    kms_endpoint: str | None = None
    kms_tunnel: bool = False


async def run_host(
    plan: HostPlan,
    *,
    source: ArtifactSource,
    on_ready: Callable[[Address, str], None],
    on_closed: Callable[[Relayed], None],
) -> None:
    """Run until cancelled or told to stop (SIGTERM); `on_ready` hears the relay's address and the enclave's boot times.

    Raises `ConfigurationError` when an address is taken, `EnclaveFailedError` when the enclave does not boot or ends.
    """
    raise_descriptor_limit()
    booted: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_state(state: str, code: str, message: str) -> None:
        if booted.done():
            return
        if state == "ready":
            booted.set_result(message)
        else:
            booted.set_exception(EnclaveFailedError(f"the enclave did not boot: {message}", code=code or "enclave"))

    services = Services(source, kms_endpoint=plan.kms_endpoint, on_state=on_state, kms_tunnel=plan.kms_tunnel)
    relay = Relay(plan.enclave, on_closed=on_closed)
    service_server, _ = await listen(plan.services, services.connected)
    # Closed, not waited for: since Python 3.12.1 that lasts until the last client has left.
    with contextlib.closing(service_server):
        relay_server, bound = await serve(plan.relay, relay.connection)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(relay.close)
            stack.callback(relay_server.close)
            process = await _launch(plan.launch)
            preparing = asyncio.get_running_loop().run_in_executor(None, services.prepare)
            stack.callback(preparing.cancel)
            try:
                await _until_stopped(process, booted, lambda stages: on_ready(bound, stages))
            finally:
                booted.cancel()
                await _stop(process)


async def _launch(command: Sequence[str]) -> asyncio.subprocess.Process | None:
    if not command:
        return None
    try:
        # Its own process group: a Ctrl-C at the terminal is ours to pass on, in order.
        return await asyncio.create_subprocess_exec(*command, start_new_session=True)
    except OSError as error:
        raise ConfigurationError(f"cannot start {command[0]}: {error.strerror}", code="enclave.launch") from error


async def _until_stopped(
    process: asyncio.subprocess.Process | None, booted: asyncio.Future[str], on_ready: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    stopped: asyncio.Future[object] = asyncio.ensure_future(stop.wait())
    ended: asyncio.Future[object] = asyncio.ensure_future(process.wait() if process else asyncio.Event().wait())
    try:
        waited: list[asyncio.Future[Any]] = [stopped, ended, booted]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if booted.done():
            on_ready(booted.result())
            await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not stopped.done():
            raise EnclaveFailedError(
                f"the enclave's process ended (exit status {ended.result()}); its console above says why",
                code="enclave.ended",
            )
    finally:
        for task in (stopped, ended):
            task.cancel()


async def _stop(process: asyncio.subprocess.Process | None) -> None:
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
