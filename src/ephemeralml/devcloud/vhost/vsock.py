"""The virtio socket device (virtio 1.3, section 5.10): the guest's AF_VSOCK, whose other ends are Unix sockets.

Whoever calls the guest does it as on Firecracker's hybrid vsock (``session/hybrid.py``); whom the guest calls is up to
`dial`. Linux gives its third queue, events, to QEMU.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from ephemeralml.devcloud.vhost.memory import VhostError
from ephemeralml.devcloud.vhost.packet import HEADER_BYTES, SHUTDOWN_SEND, STREAM, Operation, Packet
from ephemeralml.devcloud.vhost.ring import Chain, Ring
from ephemeralml.devcloud.vhost.server import Device
from ephemeralml.devcloud.vhost.stream import CREDIT_BYTES, Stream
from ephemeralml.session.hybrid import Line

MAX_STREAMS: Final = 1024
_MAX_RESETS: Final = 256
# One stream's turn, so that others get theirs.
_TURN: Final = 16
_ROOM_BYTES: Final = 64 * 1024
# VMADDR_CID_HOST, and the parent of a Nitro enclave.
_HOST_CIDS: Final = (2, 3)
# What Firecracker's own ports begin with.
_FIRST_PORT: Final = 2**30
# (guest's port, host's CID, host's port)
_Key = tuple[int, int, int]


@dataclass(slots=True)
class _Watched:
    stream: Stream
    events: int = 0


class VsockDevice(Device):
    """A vsock of the guest `cid`. Callers come in at the Unix socket `path`; `dial` gives a connected socket for a port
    that the guest calls, or None when nobody is there.
    """

    ring_count: ClassVar = 2

    def __init__(self, *, cid: int, path: Path, dial: Callable[[int], socket.socket | None]) -> None:
        super().__init__()
        self.configuration = struct.pack("<Q", cid)
        self._cid = cid
        self._dial = dial
        self._ports = itertools.cycle(range(_FIRST_PORT, 2**31))
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._streams: dict[_Key, _Watched] = {}
        self._callers: set[socket.socket] = set()
        # Packets that belong to no stream.
        self._resets: deque[Packet] = deque()
        self._spare: Chain | None = None
        self._room = memoryview(bytearray(_ROOM_BYTES))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._listener.setblocking(False)

    def attach(self, selector: selectors.BaseSelector) -> None:
        """Take callers."""
        self._selector = selector
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def reset(self) -> None:
        """Hang up on everybody."""
        super().reset()
        for key in list(self._streams):
            self._drop(key)
        for caller in list(self._callers):
            self._dismiss(caller)
        self._resets.clear()
        self._spare = None

    def serve(self) -> None:
        """Take the guest's packets, then send what is due."""
        if not self.rings:
            return
        # Room for answers first: a guest that never takes any is not listened to either.
        while len(self._resets) < _MAX_RESETS and (chain := self._from_guest.pop()) is not None:
            self._take(chain.read())
            self._from_guest.push(chain)
        self._send_due()

    @property
    def _to_guest(self) -> Ring:
        return self.rings[0]

    @property
    def _from_guest(self) -> Ring:
        return self.rings[1]

    def _take(self, data: bytes) -> None:
        if len(data) < HEADER_BYTES:
            raise VhostError("a packet shorter than its header")
        packet, payload = Packet.parse(data[:HEADER_BYTES]), data[HEADER_BYTES:]
        if packet.source[0] != self._cid or packet.length != len(payload):
            raise VhostError("a packet under another guest's name, or of another length than it says")
        key = (packet.source[1], *packet.target)
        watched = self._streams.get(key)
        if packet.target[0] not in _HOST_CIDS or packet.kind != STREAM:
            self._refuse(packet)
        elif packet.operation == Operation.REQUEST and watched is None:
            self._called(key, packet)
        elif packet.operation == Operation.RST:
            self._drop(key)
        elif watched is None:
            self._refuse(packet)
        else:
            watched.stream.credited(packet.credit, packet.forwarded)
            with self._ending_on_error(key):
                self._told(key, watched.stream, packet, payload)

    def _told(self, key: _Key, stream: Stream, packet: Packet, payload: bytes) -> None:
        match packet.operation:
            case Operation.RESPONSE if not stream.opened:
                stream.opened = True
                stream.socket.sendall(b"OK %d\n" % key[2])
            case Operation.RW if stream.opened:
                stream.write(payload)
            case Operation.CREDIT_UPDATE:
                pass
            case Operation.CREDIT_REQUEST:
                stream.owe_credit()
            case Operation.SHUTDOWN:
                stream.shut_down(packet.flags)
            case _:
                raise ConnectionAbortedError("a packet out of place")

    def _called(self, key: _Key, packet: Packet) -> None:
        """The guest calls."""
        connection = self._dial(key[2]) if len(self._streams) < MAX_STREAMS else None
        if connection is None:
            self._refuse(packet)
            return
        stream = Stream(connection, opened=True, credit=packet.credit, forwarded=packet.forwarded)
        stream.pending.append(Operation.RESPONSE)
        self._streams[key] = _Watched(stream)

    def _accept(self) -> None:
        caller, _ = self._listener.accept()
        if len(self._callers) + len(self._streams) >= MAX_STREAMS or not (self.rings and self._to_guest.running):
            caller.close()
            return
        caller.setblocking(False)
        self._callers.add(caller)
        self._selector.register(caller, selectors.EVENT_READ, partial(self._asked, caller, Line()))

    def _asked(self, caller: socket.socket, line: Line) -> None:
        """A caller says whom in the guest it calls."""
        try:
            while not line.take(caller.recv(1)):
                pass
            key = (line.called(), _HOST_CIDS[0], next(self._ports))
        except BlockingIOError:
            return
        except OSError:
            self._dismiss(caller)
            return
        self._callers.discard(caller)
        self._selector.unregister(caller)
        stream = Stream(caller, opened=False)
        stream.pending.append(Operation.REQUEST)
        self._streams[key] = _Watched(stream)
        self._send_due()

    def _dismiss(self, caller: socket.socket) -> None:
        self._callers.discard(caller)
        with suppress(KeyError, ValueError):
            self._selector.unregister(caller)
        caller.close()

    def _send_due(self) -> None:
        """What has to be told, as far as the guest has buffers; then wait for what comes next."""
        while self._resets and self._send(self._resets[0]):
            self._resets.popleft()
        for key, watched in list(self._streams.items()):
            self._tell(key, watched.stream)
        for key, watched in list(self._streams.items()):
            self._watch(key, watched)

    def _tell(self, key: _Key, stream: Stream) -> None:
        while stream.pending and self._send(self._packet(key, stream, stream.pending[0])):
            stream.pending.pop(0)
        if stream.finished and not stream.pending and self._send(self._packet(key, stream, Operation.RST)):
            self._drop(key)

    def _ready(self, key: _Key, events: int) -> None:
        """The socket of a stream can be read or written."""
        if (watched := self._streams.get(key)) is None:
            return
        with self._ending_on_error(key):
            if events & selectors.EVENT_WRITE or watched.stream.writing:
                watched.stream.flush()
            self._forward(key, watched.stream)
        self._send_due()

    def _forward(self, key: _Key, stream: Stream) -> None:
        """Data for the guest, as far as it has room and buffers."""
        for _ in range(_TURN):
            size = stream.can_send
            chain = self._buffer() if size else None
            if chain is None:
                return
            self._spare = chain
            count = stream.receive_into(self._room[: min(size, chain.room - HEADER_BYTES, _ROOM_BYTES)])
            if count is None:
                return
            if not count:
                stream.pending.append(Operation.SHUTDOWN)
                return
            self._send(self._packet(key, stream, Operation.RW, count), self._room[:count])

    def _watch(self, key: _Key, watched: _Watched) -> None:
        stream = watched.stream
        reading = stream.can_send and (self._spare is not None or not self._to_guest.empty())
        events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if stream.writing else 0)
        if events == watched.events:
            return
        if not events:
            self._selector.unregister(stream.socket)
        elif watched.events:
            self._selector.modify(stream.socket, events, partial(self._ready, key, events))
        else:
            self._selector.register(stream.socket, events, partial(self._ready, key, events))
        watched.events = events

    def _buffer(self) -> Chain | None:
        """A buffer of the guest's for one packet. Raises `VhostError` for one that holds none."""
        chain, self._spare = self._spare or self._to_guest.pop(), None
        if chain is not None and chain.room <= HEADER_BYTES:
            raise VhostError("the guest offers a buffer that holds no packet")
        return chain

    def _send(self, packet: Packet, payload: memoryview = memoryview(b"")) -> bool:  # noqa: B008 - it is constant
        """Whether there was a buffer."""
        chain = self._buffer()
        if chain is None:
            return False
        self._to_guest.push(chain, chain.write(packet.to_bytes() + payload))
        return True

    def _packet(self, key: _Key, stream: Stream, operation: Operation, length: int = 0) -> Packet:
        return Packet(
            source=key[1:],
            target=(self._cid, key[0]),
            length=length,
            operation=operation,
            flags=SHUTDOWN_SEND if operation == Operation.SHUTDOWN else 0,
            credit=CREDIT_BYTES,
            forwarded=stream.forwarded,
        )

    def _refuse(self, packet: Packet) -> None:
        if packet.operation != Operation.RST:
            self._resets.append(
                Packet(source=packet.target, target=packet.source, kind=packet.kind, operation=Operation.RST)
            )

    def _ending_on_error(self, key: _Key) -> _Ending:
        return _Ending(partial(self._abort, key))

    def _abort(self, key: _Key) -> None:
        """The stream's socket is gone: so is the stream, for the guest too."""
        guest, cid, port = key
        self._resets.append(Packet(source=(cid, port), target=(self._cid, guest), operation=Operation.RST))
        self._drop(key)

    def _drop(self, key: _Key) -> None:
        watched = self._streams.pop(key, None)
        if watched is None:
            return
        if watched.events:
            self._selector.unregister(watched.stream.socket)
        watched.stream.socket.close()


@dataclass(frozen=True, slots=True)
class _Ending:
    """A block that ends a stream when its socket fails."""

    end: Callable[[], None]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is not None and issubclass(kind, OSError):
            self.end()
            return True
        return False
