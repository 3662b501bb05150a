"""A virtio socket device (virtio, section 5.10) whose host is a hybrid vsock: Unix sockets, as Firecracker has them.

The guest's call to port P of CID 2 or 3 arrives at ``<path>_P``. Who calls the guest connects at `path` and writes
``CONNECT <port>``; it is CID 3 to the guest, the parent instance of a Nitro enclave.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ephemeralml.devcloud.vhost.caller import Caller
from ephemeralml.devcloud.vhost.packet import HEADER_BYTES, NO_RECEIVE, NO_SEND, STREAM, Key, Operation, Packet
from ephemeralml.devcloud.vhost.queue import Chain, Virtqueue
from ephemeralml.devcloud.vhost.stream import ALLOCATED, Stream
from ephemeralml.devcloud.vhost.violation import DeviceViolationError

# With `ALLOCATED` bytes of each, what a guest can make wait here.
MAX_STREAMS: Final = 1024
# Answers that a guest provokes and does not fetch; then what it sends waits (virtio, section 5.10.6.1.2).
MAX_REPLIES: Final = 256
# VMADDR_CID_HOST, and the parent instance of a Nitro enclave.
_HOST_CIDS: Final = (2, 3)
_PARENT: Final = 3
# What Firecracker's own ports begin with.
_FIRST_PORT: Final = 2**30
_PACKETS_AT_ONCE: Final = 64
_DATA_BYTES: Final = 64 * 1024
_ANSWER_SECONDS: Final = 10
_LAST_SECONDS: Final = 30
_PAUSE_SECONDS: Final = 1


class VsockDevice:
    """The device of the guest with this `cid`, connected to the host at `path`, where `listener` listens."""

    # Of the third, for events, QEMU takes care itself.
    rings = 2

    def __init__(self, *, cid: int, path: Path, listener: socket.socket) -> None:
        self.configuration = cid.to_bytes(8, "little")
        self._cid = cid
        self._path = path
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._wake: Callable[[], None] = lambda: None
        self._ports = itertools.count(_FIRST_PORT)
        self._callers: set[Caller] = set()
        self._streams: dict[Key, Stream] = {}
        # Whose guest has closed and whose host has not taken all yet.
        self._leaving: set[Stream] = set()
        self._replies: deque[Packet] = deque()
        self._relieved: dict[Stream, None] = {}
        self._ready: dict[Stream, None] = {}
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Cut every connection and listen no more."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self.reset()

    # The device as `Backend` drives it.

    def attach(self, wake: Callable[[], None]) -> None:
        """`wake` has the rings served, when the host's side has something."""
        self._wake = wake

    def reset(self) -> None:
        """Cut every connection: the guest knows none of them any more."""
        while self._callers:
            caller = self._callers.pop()
            caller.release()
            caller.connection.close()
        for stream in [*self._streams.values(), *self._leaving]:
            stream.close()
        for gathered in (self._streams, self._leaving, self._replies, self._relieved, self._ready):
            gathered.clear()

    def serve(self, queues: Sequence[Virtqueue | None]) -> bool:
        """Take packets of the guest's and give it some. Raises `DeviceViolationError` (``vhost.ring``)."""
        receive, transmit = queues
        taken = self._take(transmit) if transmit is not None else 0
        given = self._give(receive) if receive is not None else 0
        return _PACKETS_AT_ONCE in {taken, given} or (bool(taken) and len(self._replies) >= MAX_REPLIES)

    # From the guest.

    def _take(self, queue: Virtqueue) -> int:
        count = 0
        while count < _PACKETS_AT_ONCE and len(self._replies) < MAX_REPLIES and (chain := queue.take()) is not None:
            self._received(chain)
            queue.give((chain, 0))
            count += 1
        if count:
            queue.notify()
        return count

    def _received(self, chain: Chain) -> None:
        data = chain.read(HEADER_BYTES + ALLOCATED)
        if data is None or len(data) < HEADER_BYTES or chain.writable:
            raise _broken("sends what is no packet")
        packet = Packet.parse(data)
        if packet.length > len(data) - HEADER_BYTES:
            raise _broken(f"sends a packet of {packet.length} bytes that has {len(data) - HEADER_BYTES}")
        # Not its own packet: section 5.10.6.4.1 has it dropped.
        if packet.source != self._cid:
            return
        stream = self._streams.get(packet.from_guest)
        if packet.kind != STREAM or packet.destination not in _HOST_CIDS:
            self._refuse(packet)
        elif stream is not None:
            self._for_stream(stream, packet, data[HEADER_BYTES : HEADER_BYTES + packet.length])
        elif packet.operation == Operation.REQUEST:
            self._open(packet)
        else:
            self._refuse(packet)

    def _for_stream(self, stream: Stream, packet: Packet, data: bytes) -> None:
        stream.credit(allocated=packet.allocated, forwarded=packet.forwarded)
        match packet.operation:
            case Operation.RESPONSE if not stream.opened:
                self._answered(stream)
            case Operation.RW if stream.opened:
                if not stream.write(data):
                    self.failed(stream)
            case Operation.CREDIT_REQUEST if stream.opened:
                self._relieved[stream] = None
            case Operation.CREDIT_UPDATE if stream.opened:
                pass
            case Operation.SHUTDOWN if stream.opened:
                self._shut(stream, packet.flags)
            case Operation.RST:
                self._forget(stream)
                stream.close()
            case _:
                self.failed(stream)

    def _open(self, packet: Packet) -> None:
        try:
            if self._full:
                raise ConnectionRefusedError
            connection = _connected(f"{self._path}_{packet.destination_port}")
        except OSError:
            self._refuse(packet)
            return
        stream = self._streams[packet.from_guest] = Stream(connection, packet.from_guest, self)
        self._say(stream, Operation.RESPONSE)
        stream.opened = True
        stream.credit(allocated=packet.allocated, forwarded=packet.forwarded)

    def _answered(self, stream: Stream) -> None:
        stream.keep()
        stream.opened = True
        stream.greet(b"OK %d\n" % stream.key.host_port)
        stream.listen()

    def _shut(self, stream: Stream, flags: int) -> None:
        if flags & NO_RECEIVE:
            stream.hear_no_more()
        if flags & (NO_RECEIVE | NO_SEND) == NO_RECEIVE | NO_SEND:
            # A clean end (section 5.10.6.5): the guest may use its port again, the host gets what it was sent.
            self._say(stream, Operation.RST)
            self._forget(stream)
            self._leaving.add(stream)
            stream.expire(_LAST_SECONDS)
        if flags & NO_SEND:
            stream.end()

    def _refuse(self, packet: Packet) -> None:
        if packet.operation != Operation.RST:
            self._replies.append(
                Packet(
                    source=packet.destination,
                    destination=packet.source,
                    source_port=packet.destination_port,
                    destination_port=packet.source_port,
                    kind=packet.kind,
                    operation=Operation.RST,
                )
            )

    # From the host.

    @property
    def _full(self) -> bool:
        return len(self._callers) + len(self._streams) + len(self._leaving) >= MAX_STREAMS

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # Out of descriptors, it would be ready again at once.
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_PAUSE_SECONDS, self._listen_again)
            return
        if self._full:
            connection.close()
            return
        connection.setblocking(False)
        self._callers.add(Caller(connection, on_called=self._called, on_gone=self._callers.discard))

    def _listen_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _called(self, caller: Caller, port: int) -> None:
        self._callers.discard(caller)
        if len(self._replies) >= MAX_REPLIES:
            # The guest fetches nothing.
            caller.connection.close()
            return
        key = Key(_PARENT, next(self._ports), port)
        stream = self._streams[key] = Stream(caller.connection, key, self)
        self._say(stream, Operation.REQUEST)
        stream.expire(_ANSWER_SECONDS)

    def readable(self, stream: Stream) -> None:
        """`stream` may have something for the guest."""
        self._ready[stream] = None
        self._wake()

    def relieved(self, stream: Stream) -> None:
        """The guest should know that it can send more."""
        if self._streams.get(stream.key) is stream:
            self._relieved[stream] = None
            self._wake()

    def failed(self, stream: Stream) -> None:
        """Cut it; the guest hears of it, if it still knows it."""
        if self._streams.get(stream.key) is stream:
            self._say(stream, Operation.RST)
            self._forget(stream)
        self._leaving.discard(stream)
        stream.close()

    def drained(self, stream: Stream) -> None:
        """Close it, if the guest has closed it too."""
        if stream in self._leaving:
            self._leaving.discard(stream)
            stream.close()

    # To the guest.

    def _give(self, queue: Virtqueue) -> int:
        count = 0
        while count < _PACKETS_AT_ONCE and (self._replies or self._relieved or self._ready):
            chain = queue.take()
            if chain is None:
                break
            if chain.readable or chain.room <= HEADER_BYTES:
                raise _broken("has no room for a packet where one should be")
            data = self._next(chain.room - HEADER_BYTES)
            if data is None:
                queue.untake()
                break
            queue.give((chain, chain.write(data)))
            count += 1
        if count:
            queue.notify()
        return count

    def _next(self, room: int) -> bytes | None:
        """The next packet, with at most `room` bytes of data, or None when there is none after all."""
        if self._replies:
            return bytes(self._replies.popleft())
        if self._relieved:
            stream, _ = self._relieved.popitem()
            return bytes(self._packet(stream, Operation.CREDIT_UPDATE))
        while self._ready:
            # The first goes to the end: each has its turn.
            stream = next(iter(self._ready))
            del self._ready[stream]
            try:
                data = stream.read(min(room, _DATA_BYTES))
            except OSError:
                self.failed(stream)
                return bytes(self._replies.popleft())
            if data:
                self._ready[stream] = None
                return bytes(self._packet(stream, Operation.RW, length=len(data))) + data
            if data is not None:
                return bytes(self._packet(stream, Operation.SHUTDOWN, flags=NO_SEND))
            stream.listen()
        return None

    def _say(self, stream: Stream, operation: Operation) -> None:
        self._replies.append(self._packet(stream, operation))
        self._wake()

    def _packet(self, stream: Stream, operation: Operation, *, length: int = 0, flags: int = 0) -> Packet:
        stream.told()
        return Packet(
            source=stream.key.host_cid,
            destination=self._cid,
            source_port=stream.key.host_port,
            destination_port=stream.key.guest_port,
            length=length,
            operation=operation,
            flags=flags,
            allocated=ALLOCATED,
            forwarded=stream.forwarded,
        )

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.key]
        self._relieved.pop(stream, None)
        self._ready.pop(stream, None)


def _connected(path: str) -> socket.socket:
    """A socket that does not block. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        # A Unix socket connects at once or not at all.
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _broken(what: str) -> DeviceViolationError:
    return DeviceViolationError(f"the guest's vsock {what}", code="vhost.ring")
