"""The relay: joins a client's connection to the enclave's and copies bytes. It opens no frame and holds no key."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from ephemeralml.errors import TransportError
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.messages import Notice
from ephemeralml.session.transport import Address, dial

MAX_CONNECTIONS = 1024
# A quarter of what an enclave takes, so that one address cannot shut out the others.
MAX_CONNECTIONS_PER_ADDRESS = 128
# A peer that takes nothing for this long holds buffers for nothing.
_STALLED_SECONDS = 60
# What a client gets to take the enclave's last words and hang up.
_LAST_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Relayed:
    """Bytes of one connection or more, each way."""

    to_enclave: int
    to_client: int

    def __add__(self, other: Relayed) -> Relayed:
        return Relayed(self.to_enclave + other.to_enclave, self.to_client + other.to_client)


class Relay:
    """Copies between clients and the enclave at `enclave`; `on_closed` hears what each connection carried.

    `enclave` may change, and is None while there is none: clients are told that it is unavailable. `opened` and
    `turned_away` count clients that got a place, and those that got an alert instead, by its code.
    """

    def __init__(self, enclave: Address | None, *, on_closed: Callable[[Relayed], None]) -> None:
        self.enclave = enclave
        self._on_closed = on_closed
        self._open: Counter[str] = Counter()
        self._closed = Relayed(0, 0)
        self.opened = 0
        self.turned_away: Counter[str] = Counter(busy=0, unavailable=0)
        self._clients: set[_Client] = set()
        # One for all: the loop fills it and hands it over in one step.
        self.buffer = memoryview(bytearray(WRITE_BYTES))

    @property
    def connections(self) -> int:
        """Clients that have a place."""
        return len(self._clients)

    @property
    def carried(self) -> Relayed:
        """Bytes of all connections so far, those that go on included."""
        return sum((client.relayed for client in self._clients), self._closed)

    def connection(self) -> asyncio.BaseProtocol:
        """The protocol of one client's connection."""
        return _Client(self)

    async def close(self) -> None:
        """Cut every connection."""
        await self._cut(set(self._clients))

    async def part(self) -> None:
        """Cut every connection that has reached an enclave."""
        await self._cut({client for client in self._clients if client.joined})

    async def _cut(self, clients: set[_Client]) -> None:
        for client in clients:
            client.cut()
        if clients:
            await asyncio.wait({client.gone for client in clients})

    def admit(self, client: _Client) -> bool:
        """Give a client a place, if there is one."""
        if self._open.total() >= MAX_CONNECTIONS or self._open[client.peer] >= MAX_CONNECTIONS_PER_ADDRESS:
            self.turned_away["busy"] += 1
            return False
        self.opened += 1
        self._open[client.peer] += 1
        self._clients.add(client)
        return True

    def leave(self, client: _Client, relayed: Relayed | None) -> None:
        """Take the place back; `relayed` is None for a client that never got through."""
        self._clients.discard(client)
        self._open[client.peer] -= 1
        if not self._open[client.peer]:
            del self._open[client.peer]
        if relayed is not None:
            self._closed += relayed
            self._on_closed(relayed)


class _End(asyncio.BufferedProtocol):
    """One end of a joined pair: what arrives here goes out at the other, and so does its end."""

    other: _End

    def __init__(self, buffer: memoryview, on_lost: Callable[[], None]) -> None:
        self._buffer = buffer
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._stalled: asyncio.TimerHandle | None = None
        self._last: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.received = 0
        self.finished = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        self.received += count
        self.other.write(bytes(self._buffer[:count]))

    def eof_received(self) -> bool:
        self.finished = True
        self.other.write_eof()
        if self.other.finished:
            self.hang_up()
            self.other.hang_up()
        # The other direction may go on.
        return True

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()
        self._stalled = self._loop.call_later(_STALLED_SECONDS, self.abort)

    def resume_writing(self) -> None:
        self._cancel_timer()
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_timer()
        if self._last is not None:
            self._last.cancel()
        self.finished = self.lost = True
        # After a clean end what is on its way may still arrive; after a broken one nobody listens.
        if error is None:
            self.other.hang_up()
        else:
            self.other.abort()
        self._on_lost()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_eof(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            # A peer that reset the connection has no other direction to end.
            with suppress(OSError):
                self.transport.write_eof()

    def hang_up(self) -> None:
        """Close once all is written, if the peer takes it."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
            self.abort_in(_STALLED_SECONDS)

    def abort_in(self, seconds: float) -> None:
        if not self.lost and self._last is None:
            self._last = self._loop.call_later(seconds, self.abort)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _cancel_timer(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()


class _Enclave(_End):
    """The enclave's end."""

    def eof_received(self) -> bool:
        # Nobody listens to the client any more: a silent one must not keep its place.
        self.other.abort_in(_LAST_SECONDS)
        return super().eof_received()


class _Client(_End):
    """A client's end, which brings the other about."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay.buffer, self._leave)
        self._relay = relay
        self._admitted = False
        self._joining: asyncio.Task[None] | None = None
        self.other = _Enclave(relay.buffer, self._leave)
        self.other.other = self
        self.peer = ""
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else "local"
        self._admitted = self._relay.admit(self)
        if self._admitted:
            # Nothing is read before there is somebody to give it to.
            cast("asyncio.Transport", transport).pause_reading()
            self._joining = self._loop.create_task(self._join())
        else:
            self.write(_alert("busy", "the relay has as many connections as it may; try again shortly"))
            self.hang_up()

    async def _join(self) -> None:
        if self._relay.enclave is None:
            self._nobody_there()
            return
        try:
            transport = await dial(self._relay.enclave, lambda: self.other)
        except TransportError:
            self._nobody_there()
            return
        if self.transport is None or self.transport.is_closing():
            transport.abort()
        else:
            self.transport.resume_reading()

    def _nobody_there(self) -> None:
        self._relay.turned_away["unavailable"] += 1
        self.write(_alert("unavailable", "the enclave behind this relay is not running (yet)"))
        self.write_eof()
        # What the client says is read and dropped until it hangs up: closing on it could take the alert away.
        self.other.finished = True
        self.abort_in(_LAST_SECONDS)
        if self.transport is not None:
            self.transport.resume_reading()

    def cut(self) -> None:
        """End both connections now."""
        if self._joining is not None:
            self._joining.cancel()
        self.abort()
        self.other.abort()

    @property
    def relayed(self) -> Relayed:
        """What it has carried so far: nothing, until it is joined."""
        return Relayed(self.received, self.other.received) if self.joined else Relayed(0, 0)

    @property
    def joined(self) -> bool:
        """Whether it has ever got through to an enclave."""
        return self.other.transport is not None

    def _leave(self) -> None:
        if not self.lost or (self.joined and not self.other.lost) or self.gone.done():
            return
        self.gone.set_result(None)
        if self._admitted:
            self._relay.leave(self, self.relayed if self.joined else None)


def _alert(code: str, message: str) -> bytes:
    return encode_frame(FrameType.ALERT, Notice(code, message).to_bytes())
