"""The enclave's listener: many connections over one model, each unable to harm another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial

from ephemeralml.enclave.boot import Booted
from ephemeralml.enclave.budget import Budget
from ephemeralml.enclave.connection import Connection, alert
from ephemeralml.enclave.issuer import Issuer
from ephemeralml.errors import EphemeralMLError
from ephemeralml.inference import Batcher, Embedded
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.hpke import HpkeKey
from ephemeralml.session.transport import Address, listen


class Server:
    """Serves a booted enclave until cancelled."""

    def __init__(self, booted: Booted, *, batcher: Batcher) -> None:
        self._booted = booted
        self._batcher = batcher
        self._issuer = Issuer(booted)
        self._limits = booted.configuration.limits
        self._budget = Budget(self._limits.total_bytes)
        self._handshakes = asyncio.Semaphore(self._limits.handshakes)
        self._connections = 0
        self._key = HpkeKey()
        self._key_made = time.monotonic()

    async def serve(self, address: Address, *, ready: Callable[[Address], Awaitable[None]]) -> None:
        """Listen on `address`; `ready` is awaited once with the address really bound."""
        server, bound = await listen(address, self._connected)
        # Closed, not waited for: since Python 3.12.1 that lasts until the last client has left.
        with closing(server):
            await ready(bound)
            await asyncio.get_running_loop().create_future()

    def _current_key(self) -> HpkeKey:
        if time.monotonic() - self._key_made > self._limits.key_rotation_seconds:
            self._key, self._key_made = HpkeKey(), time.monotonic()
        return self._key

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > self._limits.connections:
                writer.write(alert("busy", "the enclave has as many connections as it may; try again shortly"))
                return
            await self._converse(reader, writer)
        # Whatever a client does ends its own connection and nothing else; nothing of it is logged.
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._connections -= 1
            await _hang_up(writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(
            reader,
            writer,
            limits=self._limits,
            budget=self._budget,
            dimension=self._booted.encoder.dimension,
            # Sessions are told apart by the connection they are on.
            embed=partial(self._embed, session=object()),
            issue=self._issuer.issue,
        )
        booted = self._booted
        handshake = EnclaveHandshake(
            key=self._current_key(),
            model=booted.manifest.digest,
            config=booted.configuration.digest,
            boot=booted.boot_id,
            manifest=booted.signed_manifest,
        )
        try:
            await connection.handshake(handshake, self._show_evidence)
            await connection.serve()
        except EphemeralMLError as error:
            writer.write(alert(error.code, str(error)))

    async def _show_evidence(self, handshake: EnclaveHandshake, nonce: bytes) -> tuple[bytes, bytes]:
        # The security module is one device that takes milliseconds: not on the loop, and not for everybody at once.
        async with self._handshakes:
            return await asyncio.to_thread(partial(handshake.evidence, nonce, attest=self._attest))

    def _attest(self, user_data: bytes, nonce: bytes) -> bytes:
        key = self._booted.receipt_key.public_key().public_bytes_raw()
        return self._booted.module.attest(user_data=user_data, nonce=nonce, public_key=key)

    async def _embed(self, texts: tuple[str, ...], *, session: object) -> Embedded:
        return await asyncio.wrap_future(self._batcher.submit(texts, session=session))


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(5):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
