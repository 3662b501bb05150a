"""A split virtqueue as the device sees it (virtio, section 2.7), without indirect descriptors and event indices.

Of the loads and stores of its indices each is one of 16 bits at an even address; on x86-64, the only machine here, they
are seen in the order in which they were made. The driver's wish not to be interrupted is a hint (section 2.7.7) that is
not taken: to read it after the used index was written would need a fence, which Python does not have.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ephemeralml.devcloud.vhost.memory import GuestMemory
from ephemeralml.devcloud.vhost.violation import DeviceViolationError

MAX_SIZE: Final = 1024
_DESCRIPTOR: Final = struct.Struct("<QIHH")
_NEXT, _WRITE = 1, 2
_WRAP: Final = 1 << 16
# An eventfd's counter (eventfd(2)).
_ONE: Final = (1).to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Chain:
    """One buffer of the driver's: the parts that the device reads, then those that it writes."""

    head: int
    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]

    def read(self, limit: int) -> bytes | None:
        """All that is to be read, or None when it has more than `limit` bytes."""
        if sum(map(len, self.readable)) > limit:
            return None
        return b"".join(self.readable)

    @property
    def room(self) -> int:
        """How many bytes can be written."""
        return sum(map(len, self.writable))

    def write(self, data: bytes) -> int:
        """Write `data`, which must find room; returns its length."""
        rest = memoryview(data)
        for part in self.writable:
            part[: len(rest)] = rest[: len(part)]
            rest = rest[len(part) :]
        return len(data)


class Virtqueue:
    """A started ring of `size` entries; `base` is the next entry of the available ring that is not served yet.

    `call` notifies the driver, an eventfd that is the caller's to close, or None as long as there is none.
    """

    def __init__(
        self, memory: GuestMemory, *, size: int, descriptors: int, available: int, used: int, base: int
    ) -> None:
        self._memory = memory
        self._size = size
        # Sizes and alignments: virtio, section 2.7.
        self._descriptors = memory.user(descriptors, 16 * size)
        self._available = memory.user(available, 4 + 2 * size).cast("H")
        ring = memory.user(used, 4 + 8 * size)
        self._used_index, self._used = ring[:4].cast("H"), ring[4:].cast("I")
        self._next_used = self._used_index[1]
        self.base = base
        self.call: int | None = None

    def take(self) -> Chain | None:
        """The next buffer, or None when the driver has made none available.

        Raises `DeviceViolationError` (``vhost.ring``).
        """
        waiting = (self._available[1] - self.base) % _WRAP
        if waiting > self._size:
            raise _broken(f"{waiting} buffers in a ring of {self._size}")
        if not waiting:
            return None
        chain = self._follow(self._available[2 + self.base % self._size])
        self.base = (self.base + 1) % _WRAP
        return chain

    def untake(self) -> None:
        """Leave the buffer that was taken last for later."""
        self.base = (self.base - 1) % _WRAP

    def give(self, *done: tuple[Chain, int]) -> None:
        """Give buffers back, of each so many bytes written: the driver sees all of them or none."""
        for chain, written in done:
            at = 2 * (self._next_used % self._size)
            self._used[at], self._used[at + 1] = chain.head, written
            self._next_used = (self._next_used + 1) % _WRAP
        self._used_index[1] = self._next_used

    def notify(self) -> None:
        """Tell the driver to look."""
        if self.call is not None:
            # A counter at its highest value says all there is to say.
            with suppress(BlockingIOError):
                os.write(self.call, _ONE)

    def _follow(self, head: int) -> Chain:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        index = head
        # As long as the ring at most: whatever is longer goes round.
        for _ in range(self._size):
            if index >= self._size:
                raise _broken(f"descriptor {index} of {self._size}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, 16 * index)
            if flags & ~(_NEXT | _WRITE):
                raise _broken(f"a descriptor with the flags {flags:#x}")
            if flags & _WRITE:
                writable.append(self._memory.guest(address, length))
            elif writable:
                raise _broken("a part to read after one to write")
            else:
                readable.append(self._memory.guest(address, length))
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            index = following
        raise _broken("a chain of descriptors without an end")


def _broken(what: str) -> DeviceViolationError:
    return DeviceViolationError(f"the guest's ring has {what}", code="vhost.ring")
