"""A split virtqueue, from the device's side (virtio 1.3, section 2.7)."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ephemeralml.devcloud.vhost.memory import GuestMemory, VhostError

MAX_SIZE: Final = 1024
"""Entries of a ring; QEMU gives 128 or 256."""

MAX_CHAIN_BYTES: Final = 1 << 20
"""Of one request; Linux sends a vsock packet of at most 64 KiB and a request to the NSM of 16 KiB."""

_DESCRIPTOR: Final = struct.Struct("<QIHH")
_AVAILABLE: Final = struct.Struct("<HH")
_USED: Final = struct.Struct("<HH")
_INDEX: Final = struct.Struct("<H")
_USED_ELEMENT: Final = struct.Struct("<II")
# VIRTQ_DESC_F_*, VIRTQ_AVAIL_F_NO_INTERRUPT.
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT: Final = 1


@dataclass(frozen=True, slots=True)
class Chain:
    """One buffer of the driver's: what it wrote, and the room it left. Give it back with `Ring.push`."""

    head: int
    readable: Sequence[memoryview]
    writable: Sequence[memoryview]

    def read(self) -> bytes:
        """All that the driver wrote."""
        return b"".join(self.readable)

    def write(self, data: bytes | memoryview) -> int:
        """Write into the room and return how much was written: all of it, or `VhostError`."""
        rest = memoryview(data)
        for room in self.writable:
            part = min(len(room), len(rest))
            room[:part] = rest[:part]
            rest = rest[part:]
        if rest:
            raise VhostError("the guest left too little room for an answer")
        return len(data)

    @property
    def room(self) -> int:
        """Bytes that fit."""
        return sum(map(len, self.writable))


class Ring:
    """One virtqueue. It is served from when it has a kick and is enabled (vhost-user, "Ring states")."""

    def __init__(self) -> None:
        self.enabled = False
        self.kick: int | None = None
        self.base = 0
        self._call: int | None = None
        self._size = 0
        self._used_at = 0
        self._views: tuple[memoryview, memoryview, memoryview] | None = None
        self._memory: GuestMemory | None = None

    @property
    def running(self) -> bool:
        """Whether buffers may be taken."""
        return self.enabled and self.kick is not None and self._views is not None

    def set_size(self, size: int) -> None:
        """Entries, a power of two. Raises `VhostError`."""
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise VhostError(f"a ring of {size} entries")
        self._size = size

    def set_addresses(self, memory: GuestMemory, *, descriptors: int, available: int, used: int) -> None:
        """Where its three parts are, by QEMU's addresses. Raises `VhostError`."""
        size = self._size
        self._memory = memory
        self._views = (
            memory.user(descriptors, 16 * size),
            memory.user(available, 4 + 2 * size),
            memory.user(used, 4 + 8 * size),
        )
        self._used_at = _USED.unpack_from(self._views[2])[1]

    def set_call(self, descriptor: int | None) -> None:
        """Where the guest is told of used buffers. It is told at once: one could have been lost on the old one."""
        if self._call is not None:
            os.close(self._call)
        self._call = descriptor
        self._signal()

    def set_kick(self, descriptor: int | None) -> None:
        """Where the guest tells of available buffers."""
        if self.kick is not None:
            os.close(self.kick)
        self.kick = descriptor

    def stop(self) -> int:
        """No longer serve it. Returns where to go on."""
        self.enabled = False
        self._views = None
        return self.base

    def close(self) -> None:
        """Give its descriptors back."""
        self.stop()
        self.set_kick(None)
        if self._call is not None:
            os.close(self._call)
        self._call = None

    def empty(self) -> bool:
        """Whether the driver has no buffer for us."""
        if not self.running or self._views is None:
            return True
        return self._available() == self.base

    def pop(self) -> Chain | None:
        """The next buffer, or None. Raises `VhostError` for one that makes no sense."""
        if self.empty():
            return None
        assert self._views is not None
        waiting = (self._available() - self.base) % 2**16
        if waiting > self._size:
            raise VhostError("the guest offers more buffers than its ring holds")
        (head,) = _INDEX.unpack_from(self._views[1], 4 + 2 * (self.base % self._size))
        chain = self._chain(head)
        self.base = (self.base + 1) % 2**16
        return chain

    def push(self, chain: Chain, written: int = 0) -> None:
        """Give a buffer back, `written` bytes of its room filled, and tell the guest."""
        if self._views is None:
            return
        used = self._views[2]
        _USED_ELEMENT.pack_into(used, 4 + 8 * (self._used_at % self._size), chain.head, written)
        self._used_at = (self._used_at + 1) % 2**16
        # After the element: x86 keeps stores in order.
        _INDEX.pack_into(used, 2, self._used_at)
        if not _AVAILABLE.unpack_from(self._views[1])[0] & _NO_INTERRUPT:
            self._signal()

    def _available(self) -> int:
        assert self._views is not None
        return int(_AVAILABLE.unpack_from(self._views[1])[1])

    def _chain(self, head: int) -> Chain:
        assert self._views is not None
        assert self._memory is not None
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        index, total = head, 0
        # A chain has no more links than the ring has entries, or it bites its tail.
        for _ in range(self._size):
            if index >= self._size:
                raise VhostError("the guest names a descriptor that its ring does not have")
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._views[0], 16 * index)
            total += length
            if flags & _INDIRECT or total > MAX_CHAIN_BYTES or (not flags & _WRITE and writable):
                raise VhostError("the guest offers a buffer that is indirect, too large or in disorder")
            (writable if flags & _WRITE else readable).append(self._memory.guest(address, length))
            if not flags & _NEXT:
                return Chain(head, readable, writable)
            index = following
        raise VhostError("the guest offers a buffer that never ends")

    def _signal(self) -> None:
        if self._call is not None:
            os.eventfd_write(self._call, 1)
