"""The gateway as a server: it attests, then listens, and when told to stop it answers what it has taken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ephemeralml.attestation import Policy, Verdict
from ephemeralml.errors import ConfigurationError
from ephemeralml.gateway.app import Api, Parts
from ephemeralml.gateway.keys import ApiKeys
from ephemeralml.gateway.metrics import Metrics
from ephemeralml.gateway.pool import Pool
from ephemeralml.gateway.receipts import MEMORY, Receipts
from ephemeralml.session.sockets import SocketFile, bound
from ephemeralml.session.transport import BACKLOG, Address, reason

REQUEST_SECONDS: Final = 30.0
"""For one request, an enclave that is being replaced included."""
_CONNECTIONS: Final = 512
HEAD_SECONDS: Final = 10.0
"""For a request's head, from its first byte on: uvicorn itself waits for ever."""
ANSWER_SECONDS: Final = 30.0
"""For an answer to be read, from the first byte on that did not go out at once: uvicorn itself waits for ever."""
# Longer than clients keep an idle connection: they hang up first, and never while a request is on its way.
_KEEP_ALIVE_SECONDS: Final = 75
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to serve and where. `receipts`: the file they are kept in, in memory when None; `keep`: how many."""

    relay: str
    policy: Policy
    listen: Address
    keys: Path | None
    receipts: Path | None
    keep: int


def run_gateway(plan: Plan, *, on_verified: Callable[[Verdict], None], on_listening: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, whose handler is called after the last answer.

    Raises as `Client.embed` when the enclave does not pass the policy, and then nobody was listened to;
    `ConfigurationError` for a file or an address that cannot work.
    """
    keys = None if plan.keys is None else ApiKeys.load(plan.keys)
    receipts = Receipts(MEMORY if plan.receipts is None else plan.receipts, keep=plan.keep)
    pool = Pool(plan.relay, policy=plan.policy, timeout=REQUEST_SECONDS)
    try:
        pool.attest()
        with pool.client() as client:
            on_verified(client.verdict)
        # Nothing resolves to a Unix socket.
        names = _LOOPBACK if plan.listen.is_local and plan.listen.scheme == "tcp" else None
        api = Api(Parts(pool=pool, receipts=receipts, keys=keys, metrics=Metrics(), names=names))
        _serve(api, plan.listen, on_listening)
    finally:
        pool.close()
        receipts.close()


def _serve(api: Api, address: Address, on_listening: Callable[[str], None]) -> None:
    listener = _listening(address)
    file = SocketFile(address.path) if address.scheme == "unix" else None
    server = _Server(
        uvicorn.Config(
            api.app,
            http=_Connection,
            access_log=False,
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(REQUEST_SECONDS) + 1,
        ),
        on_started=lambda: on_listening(_url(address, listener)),
    )
    try:
        server.run(sockets=[listener])
    finally:
        if file is not None:
            file.remove()
        listener.close()


class _Connection(H11Protocol):
    """uvicorn's connection, which hangs up when a request's head does not come, or its answer is not read, in time.

    Else whoever opens `_CONNECTIONS` and says nothing, or a byte, or asks and does not read, would shut out everyone,
    and needs no key for it. One connection more is hung up on at once: it takes a descriptor that a session may need.
    """

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Writing is paused as long as anything at all is unsent: closing, too, waits for that.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
        # New, it is as idle as between two requests: a pool may open it before there is one.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # None before the first request, whatever its type says.
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._stop_waiting()
        elif self._head is None:
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all_is_read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._all_is_read()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _all_is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


def _listening(address: Address) -> socket.socket:
    if address.scheme not in {"tcp", "unix"}:
        raise ConfigurationError(f"a gateway listens on tcp:// or unix://, not {address}", code="gateway.address")
    try:
        if address.scheme == "unix":
            listener = bound(address)
            listener.listen(BACKLOG)
            return listener
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"the gateway cannot listen on {address}: {reason(error)}; choose another address",
            code="gateway.address",
        ) from error
    # asyncio does so for sockets of its own alone; without it a small answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(address: Address, listener: socket.socket) -> str:
    if address.scheme == "unix":
        return str(address)
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
