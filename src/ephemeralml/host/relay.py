"""The relay: joins a client's connection to the enclave's and copies bytes. It opens no frame and holds no key."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ephemeralml.errors import TransportError
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.messages import Notice
from ephemeralml.session.transport import Address, open_stream

MAX_CONNECTIONS = 1024
# A quarter of what an enclave takes, so that one address cannot shut out the others.
MAX_CONNECTIONS_PER_ADDRESS = 128
# A peer that takes nothing for this long holds buffers for nothing.
_STALLED_SECONDS = 60
# What a client gets to take the enclave's last words and hang up.
_LAST_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Relayed:
    """Bytes of one finished connection, each way."""

    to_enclave: int
    to_client: int


class Relay:
    """Copies between clients and the enclave at `enclave`; `on_closed` hears what each connection carried."""

    def __init__(self, enclave: Address, *, on_closed: Callable[[Relayed], None]) -> None:
        self._enclave = enclave
        self._on_closed = on_closed
        self._open: Counter[str] = Counter()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either end closes both ways."""
        peer = _peer(writer)
        if self._open.total() >= MAX_CONNECTIONS or self._open[peer] >= MAX_CONNECTIONS_PER_ADDRESS:
            await _turn_away(writer, "busy", "the relay has as many connections as it may; try again shortly")
            return
        self._open[peer] += 1
        try:
            try:
                inner_reader, inner_writer = await open_stream(self._enclave)
            except TransportError:
                await _turn_away(writer, "unavailable", "the enclave behind this relay is not running (yet)")
                return
            try:
                async with asyncio.TaskGroup() as group:
                    up = group.create_task(_pump(reader, inner_writer))
                    down = group.create_task(_pump(inner_reader, writer))
                    await down
                    # Nobody listens to the client any more: a silent one must not keep its place.
                    _, late = await asyncio.wait({up}, timeout=_LAST_SECONDS)
                    if late:
                        writer.transport.abort()
                self._on_closed(Relayed(up.result(), down.result()))
            finally:
                await _close(inner_writer)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
            await _close(writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Copy until the end, pass the end on, and count."""
    count = 0
    try:
        while chunk := await reader.read(WRITE_BYTES):
            writer.write(chunk)
            count += len(chunk)
            async with asyncio.timeout(_STALLED_SECONDS):
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (OSError, TimeoutError):
        # One direction broke: the other must not wait for an end that will not come.
        writer.transport.abort()
    return count


async def _turn_away(writer: asyncio.StreamWriter, code: str, message: str) -> None:
    with suppress(OSError):
        writer.write(encode_frame(FrameType.ALERT, Notice(code, message).to_bytes()))
        await writer.drain()
    await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            await writer.wait_closed()


def _peer(writer: asyncio.StreamWriter) -> str:
    name = writer.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else "local"
