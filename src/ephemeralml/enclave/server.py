"""The enclave's listener: many connections over one model, each unable to harm another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ephemeralml.enclave.boot import Booted
from ephemeralml.enclave.budget import Budget
from ephemeralml.enclave.connection import Connection, unavailable
from ephemeralml.enclave.issuer import Issuer
from ephemeralml.enclave.security_module import SecurityModuleError
from ephemeralml.enclave.tally import Tally
from ephemeralml.errors import BusyError, PlatformError
from ephemeralml.inference import Batcher
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.hpke import HpkeKey
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.transport import Address, serve


class Server:
    """Serves a booted enclave until it is drained, or cancelled: then all connections are cut.

    It stays up when the platform lets it show no evidence: `on_refusing` hears the code, once for each reason. `tally`
    counts what it does.
    """

    def __init__(self, booted: Booted, *, batcher: Batcher, tally: Tally, on_refusing: Callable[[str], None]) -> None:
        self._booted = booted
        self._tally = tally
        self._batcher = batcher
        self._issuer = Issuer(booted)
        self._limits = booted.configuration.limits
        self._budget = Budget(self._limits.total_bytes)
        self._handshakes = asyncio.Semaphore(self._limits.handshakes)
        self._connections: set[_Counted] = set()
        self._draining = asyncio.Event()
        self._on_refusing = on_refusing
        self._refusing: set[str] = set()
        # One for all connections: the loop fills it and hands it over in one step.
        self._buffer = memoryview(bytearray(WRITE_BYTES))
        self._key = HpkeKey()
        self._key_made = time.monotonic()

    async def serve(self, address: Address, *, ready: Callable[[Address], Awaitable[None]]) -> None:
        """Listen on `address` until `drain`; `ready` is awaited once with the address really bound."""
        server, bound = await serve(address, self._connection)
        try:
            await ready(bound)
            await self._draining.wait()
            server.close()
            await asyncio.gather(*(connection.drain() for connection in self._connections))
        finally:
            # Closed, not waited for: since Python 3.12.1 that lasts until the last client has left.
            server.close()
            for connection in set(self._connections):
                connection.transport.abort()
            # The loop closes their sockets at its next turn.
            await asyncio.sleep(0)

    def drain(self) -> bool:
        """Let `serve` end when all is answered that is in work; false when it was told so before."""
        first = not self._draining.is_set()
        self._draining.set()
        return first

    def admit(self, connection: _Counted) -> None:
        """Give a connection a place. Raises `BusyError`."""
        if self._draining.is_set():
            raise unavailable()
        if len(self._connections) >= self._limits.connections:
            self._tally.refused("busy")
            raise BusyError("the enclave has as many connections as it may; try again shortly")
        self._connections.add(connection)

    def leave(self, connection: _Counted) -> None:
        """Take the place back, if it had one."""
        self._connections.discard(connection)

    def _current_key(self) -> HpkeKey:
        if time.monotonic() - self._key_made > self._limits.key_rotation_seconds:
            self._key, self._key_made = HpkeKey(), time.monotonic()
        return self._key

    def _connection(self) -> asyncio.BaseProtocol:
        booted = self._booted
        handshake = EnclaveHandshake(
            key=self._current_key(),
            model=booted.manifest.digest,
            config=booted.configuration.digest,
            boot=booted.boot_id,
            manifest=booted.signed_manifest,
        )
        # Sessions are told apart by the connection they are on.
        session = object()
        return _Counted(
            self,
            buffer=self._buffer,
            limits=self._limits,
            budget=self._budget,
            tally=self._tally,
            dimension=booted.encoder.dimension,
            handshake=handshake,
            show_evidence=self._show_evidence,
            embed=partial(self._batcher.submit, session=session),
            issue=self._issuer.issue,
        )

    async def _show_evidence(self, handshake: EnclaveHandshake, nonce: bytes) -> tuple[bytes, bytes]:
        # The security module is one device that takes milliseconds: not on the loop, and not for everybody at once.
        start = time.perf_counter()
        async with self._handshakes:
            try:
                shown = await asyncio.to_thread(partial(handshake.evidence, nonce, attest=self._attest))
            except (PlatformError, SecurityModuleError) as error:
                self._tally.no_evidence()
                # Not at each handshake, or clients could fill the console.
                if error.code not in self._refusing:
                    self._refusing.add(error.code)
                    self._on_refusing(error.code)
                raise
        self._tally.took("evidence", (time.perf_counter() - start) * 1000)
        return shown

    def _attest(self, user_data: bytes, nonce: bytes) -> bytes:
        key = self._booted.receipt_key.public_key().public_bytes_raw()
        return self._booted.module.attest(user_data=user_data, nonce=nonce, public_key=key)


class _Counted(Connection):
    """A connection that has one of the places of `server`."""

    def __init__(self, server: Server, **parts: Any) -> None:
        super().__init__(**parts)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            self._server.admit(self)
        except BusyError as error:
            self.failed(error)
            self.end()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.leave(self)
        super().connection_lost(error)
