"""One host process: relay, services, and the enclave it starts or is given."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ephemeralml.errors import EphemeralMLError
from ephemeralml.host.launch import EnclaveFailedError, Launcher
from ephemeralml.host.metrics import HostMetrics
from ephemeralml.host.metrics_page import MetricsPage
from ephemeralml.host.relay import Relay, Relayed
from ephemeralml.host.services import Services
from ephemeralml.host.supervise import Restarts, Supervisor
from ephemeralml.package import ArtifactSource
from ephemeralml.session.transport import Address, listen, raise_descriptor_limit, serve


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """Where the host listens for clients (`relay`) and for its enclave (`services`), and how it gets to the enclave.

    `enclave` is what starts one, or the address of one that something else starts. `metrics` is where its metrics are
    read, None for nowhere.
    """

    relay: Address
    services: Address
    enclave: Address | Launcher
    kms_endpoint: str | None = None
    kms_tunnel: bool = False
    metrics: Address | None = None
    restarts: Restarts = field(default_factory=Restarts)


async def run_host(
    plan: HostPlan,
    *,
    open_source: Callable[[], ArtifactSource],
    on_ready: Callable[[Address, str], None],
    on_restart: Callable[[EnclaveFailedError, float], None],
    on_kept: Callable[[EphemeralMLError], None],
    on_closed: Callable[[Relayed], None],
    on_metrics: Callable[[Address], None],
) -> None:
    """Run until cancelled or told to stop (SIGTERM).

    SIGUSR1 starts another enclave beside the one that serves, from what image, configuration and package then are; once
    it is ready it takes over. `on_ready` hears the relay's address and the boot times of each enclave that serves,
    `on_restart` why one did not or no longer does and in how many seconds the next one starts, `on_kept` why one did
    not take over, `on_metrics` where metrics are read. Raises `ConfigurationError` when an address is taken or
    an enclave cannot be started so, `EnclaveFailedError` when one does not boot and another try would not help.
    """
    raise_descriptor_limit()
    at, launcher = (plan.enclave, None) if isinstance(plan.enclave, Address) else (None, plan.enclave)
    relay = Relay(at, on_closed=on_closed)
    metrics = HostMetrics()

    async def renew() -> None:
        await services.renew()

    def restarting(error: EnclaveFailedError, seconds: float) -> None:
        metrics.restarted(error)
        on_restart(error, seconds)

    def kept(error: EphemeralMLError) -> None:
        metrics.kept(error)
        on_kept(error)

    supervisor = Supervisor(
        launcher,
        relay=relay,
        restarts=plan.restarts,
        before_start=renew,
        on_ready=lambda stages: on_ready(bound, stages),
        on_restart=restarting,
        on_kept=kept,
    )
    services = Services(
        open_source,
        kms_endpoint=plan.kms_endpoint,
        on_state=supervisor.on_state,
        metrics=metrics,
        kms_tunnel=plan.kms_tunnel,
    )
    service_server, _ = await listen(plan.services, services.connected)
    # Closed, not waited for: since Python 3.12.1 that lasts until the last client has left.
    with contextlib.closing(service_server):
        relay_server, bound = await serve(plan.relay, relay.connection)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(relay.close)
            stack.callback(relay_server.close)
            if plan.metrics is not None:
                page = MetricsPage(lambda: metrics.render(relay, serving=supervisor.serving))
                page_server, page_bound = await listen(plan.metrics, page.connected)
                stack.callback(page_server.close)
                on_metrics(page_bound)
            # Not the loop's own executor: nothing waits for a silent S3 or KMS when the host is told to stop.
            threading.Thread(target=services.prepare, name="prepare", daemon=True).start()
            if launcher is not None:
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, supervisor.replace)
            await _until_stopped(asyncio.ensure_future(supervisor.run()))


async def _until_stopped(supervising: asyncio.Future[None]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        first: list[asyncio.Future[Any]] = [supervising, stopped]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if supervising.done():
            supervising.result()
    finally:
        stopped.cancel()
        supervising.cancel()
        # The enclave is stopped before anything it depends on.
        await asyncio.wait({supervising})
