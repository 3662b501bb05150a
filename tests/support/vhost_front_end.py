"""QEMU's part of vhost-user and a guest's drivers, as far as tests need them: memory, rings, messages, events."""

from __future__ import annotations

import asyncio
import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ephemeralml.devcloud.vhost import Backend, Device, DeviceViolationError
from ephemeralml.session.sockets import bound
from ephemeralml.session.transport import Address

SECONDS = 10
MEMORY = 4 << 20
# Neither address is an offset, nor equals the other: mixing them up shows.
GUEST, USER = 0x1000_0000, 0x7F00_0000_0000
SIZE = 64
# Of each ring: descriptors, available and used ring, then its buffers.
_RING, _AVAILABLE, _USED, _BUFFERS, _BUFFER = 0x8_0000, 0x1000, 0x2000, 0x1_0000, 0x1000
NEXT, WRITE, INDIRECT = 1, 2, 4


@contextmanager
def running(make: Callable[[], Device], path: Path) -> Iterator[list[DeviceViolationError]]:
    """A back-end at `path` in a thread of its own; gives what it said of violations."""
    violations: list[DeviceViolationError] = []
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        listener = bound(Address("unix", path=str(path)))
        listener.listen()
        device = make()
        backend = Backend(device, listener, on_violation=violations.append)
        loops.append(asyncio.get_running_loop())
        started.set()
        await stop.wait()
        backend.close()
        if hasattr(device, "close"):
            device.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(SECONDS)
    try:
        yield violations
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


def open_files() -> int:
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class FrontEnd:
    """A connection to a back-end and the memory that it shares. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(SECONDS)
        self.connection.connect(str(path))
        self.descriptor = os.memfd_create("guest")
        os.truncate(self.descriptor, MEMORY)
        self.memory = memoryview(mmap.mmap(self.descriptor, MEMORY))
        self._events: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        for descriptor in (self.descriptor, *self._events):
            os.close(descriptor)

    def send(self, request: int, payload: bytes = b"", descriptors: tuple[int, ...] = (), *, flags: int = 1) -> None:
        header = struct.pack("<III", request, flags, len(payload))
        socket.send_fds(self.connection, [header + payload], descriptors)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.send(request, payload)
        return self.answer(request)

    def answer(self, request: int) -> bytes:
        got, flags, size = struct.unpack("<III", self._exactly(12))
        assert (got, flags) == (request, 5)
        return self._exactly(size)

    def acknowledged(self, request: int, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        """Send, and wait until it was done."""
        self.send(request, payload, descriptors, flags=1 | 8)
        assert self.answer(request) == bytes(8)

    def settle(self) -> None:
        """Wait until what was kicked is done: each answer is a turn of the back-end's loop."""
        for _ in range(8):
            self.ask(1)

    def hung_up(self) -> bool:
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.connection.recv(size - len(data))
            assert more, "the back-end hung up"
            data += more
        return data

    def event(self) -> int:
        self._events.append(os.eventfd(0, os.EFD_NONBLOCK))
        return self._events[-1]

    def negotiate(self) -> None:
        (features,) = struct.unpack("<Q", self.ask(1))
        assert features == 1 << 32 | 1 << 30
        (protocol,) = struct.unpack("<Q", self.ask(15))
        self.send(16, struct.pack("<Q", protocol))
        self.send(3)
        self.acknowledged(2, struct.pack("<Q", features))

    def share(self) -> None:
        region = struct.pack("<IIQQQQ", 1, 0, GUEST, MEMORY, USER, 0)
        self.acknowledged(5, region, (self.descriptor,))

    def start(self, index: int, *, enable: bool = True) -> Ring:
        """Set a ring up, as QEMU does when the guest's driver is ready."""
        at = index * _RING
        ring = Ring(self, index)
        self.acknowledged(8, struct.pack("<II", index, SIZE))
        self.acknowledged(10, struct.pack("<II", index, 0))
        addresses = (USER + at, USER + at + _USED, USER + at + _AVAILABLE)
        self.acknowledged(9, struct.pack("<IIQQQQ", index, 0, *addresses, 0))
        self.acknowledged(12, struct.pack("<Q", index), (ring.kicked,))
        self.acknowledged(13, struct.pack("<Q", index), (ring.called,))
        if enable:
            self.enable(index)
        return ring

    def enable(self, index: int, on: bool = True) -> None:
        self.acknowledged(18, struct.pack("<II", index, on))

    def stop(self, index: int) -> int:
        got, base = struct.unpack("<II", self.ask(11, struct.pack("<II", index, 0)))
        assert got == index
        return int(base)


class Ring:
    """The driver's side of a split ring. Descriptor n has buffer n, a page; `raw` writes what it likes."""

    def __init__(self, front_end: FrontEnd, index: int) -> None:
        self._at = index * _RING
        self._front_end = front_end
        self.index = index
        self.kicked, self.called = front_end.event(), front_end.event()
        self._free = list(range(SIZE))
        self._chains: dict[int, list[int]] = {}
        self._available = self._seen = 0
        front_end.memory[self._at : self._at + _RING] = bytes(_RING)

    def raw(self, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        struct.pack_into("<QIHH", self._front_end.memory, self._at + 16 * index, address, length, flags, following)

    def address(self, index: int) -> int:
        return GUEST + self._at + _BUFFERS + index * _BUFFER

    def buffer(self, index: int, size: int) -> memoryview:
        at = self._at + _BUFFERS + index * _BUFFER
        return self._front_end.memory[at : at + size]

    def offer(self, *parts: bytes | int) -> int:
        """Make a chain of bytes to be read and of rooms to be written available; no kick."""
        indices = [self._free.pop(0) for _ in parts]
        for position, (index, part) in enumerate(zip(indices, parts, strict=True)):
            last = position == len(parts) - 1
            size = part if isinstance(part, int) else len(part)
            if not isinstance(part, int):
                self.buffer(index, size)[:] = part
            flags = (WRITE if isinstance(part, int) else 0) | (0 if last else NEXT)
            self.raw(index, self.address(index), size, flags, 0 if last else indices[position + 1])
        self._chains[indices[0]] = indices
        self.publish(indices[0])
        return indices[0]

    def publish(self, head: int, *, count: int = 1) -> None:
        at = self._at + _AVAILABLE
        struct.pack_into("<H", self._front_end.memory, at + 4 + 2 * (self._available % SIZE), head)
        self._available = (self._available + count) % 2**16
        struct.pack_into("<H", self._front_end.memory, at + 2, self._available)

    def kick(self) -> None:
        os.eventfd_write(self.kicked, 1)

    @property
    def room(self) -> int:
        """How many descriptors are free."""
        return len(self._free)

    def used(self, *, wait: float = SECONDS) -> list[tuple[int, bytes]]:
        """Chains that came back since the last look: the head, and what was written. Waits for an event with some."""
        while select.select([self.called], [], [], wait)[0]:
            os.eventfd_read(self.called)
            if found := self.back():
                return found
        return []

    def back(self) -> list[tuple[int, bytes]]:
        """Chains that came back, event or not."""
        at, found = self._at + _USED, []
        (index,) = struct.unpack_from("<H", self._front_end.memory, at + 2)
        while self._seen != index:
            head, written = struct.unpack_from("<II", self._front_end.memory, at + 4 + 8 * (self._seen % SIZE))
            chain = self._chains.pop(head)
            data = b"".join(bytes(self.buffer(one, _BUFFER)) for one in chain)[:written]
            self._free += chain
            found.append((head, data))
            self._seen = (self._seen + 1) % 2**16
        return found
