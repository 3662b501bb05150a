"""What the front-end says of one ring until it can be served, and its two events ("Ring states")."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ephemeralml.devcloud.vhost.memory import GuestMemory
from ephemeralml.devcloud.vhost.message import malformed
from ephemeralml.devcloud.vhost.queue import MAX_SIZE, Virtqueue


@dataclass(slots=True)
class Ring:
    """A ring is started by its kick descriptor and stopped by GET_VRING_BASE; it is served while it is enabled too."""

    size: int = 0
    # Of the descriptors, the used and the available ring, in QEMU's own memory.
    addresses: tuple[int, int, int] | None = None
    base: int = 0
    kick: int | None = None
    call: int | None = None
    enabled: bool = False
    queue: Virtqueue | None = None

    @property
    def served(self) -> Virtqueue | None:
        """The queue, if it is to be served now."""
        return self.queue if self.enabled else None

    def resize(self, size: int) -> None:
        """Raises `DeviceViolationError`: a split ring has a power of two of entries (virtio, section 2.7)."""
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise malformed(f"a ring of {size} entries")
        self.size = size

    def start(self, memory: GuestMemory, kick: int) -> None:
        """Raises `DeviceViolationError` when ring or memory are not known yet; `kick` is the ring's from here on."""
        self._replace_kick(kick)
        self.map(memory, self.base)

    def map(self, memory: GuestMemory, base: int) -> None:
        """Find the ring in another memory, to go on from `base`. Raises `DeviceViolationError`."""
        if self.addresses is None or not self.size:
            raise malformed("a kick for a ring without size or addresses")
        descriptors, used, available = self.addresses
        if descriptors % 16 or used % 4 or available % 2:
            raise malformed("a ring that is not aligned")
        self.queue = Virtqueue(
            memory, size=self.size, descriptors=descriptors, available=available, used=used, base=base
        )
        self.queue.call = self.call

    def notify_with(self, call: int | None) -> None:
        """Another event for the driver; what was done before it came is told again."""
        if self.call is not None:
            os.close(self.call)
        self.call = call
        if self.queue is not None:
            self.queue.call = call
            self.queue.notify()

    def stop(self) -> int:
        """Serve it no more; returns where the next start goes on."""
        if self.queue is not None:
            self.base = self.queue.base
        self.fail()
        self._replace_kick(None)
        if self.call is not None:
            os.close(self.call)
            self.call = None
        return self.base

    def fail(self) -> None:
        """Out of service until it is started again; its memory is let go."""
        self.queue = None

    def _replace_kick(self, kick: int | None) -> None:
        if self.kick is not None:
            os.close(self.kick)
        self.kick = kick
