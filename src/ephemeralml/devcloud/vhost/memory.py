"""The guest's memory, shared by QEMU: what an address that somebody else chose leads to, or an error."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ephemeralml.errors import EphemeralMLError

# VHOST_MEMORY_BASELINE_NREGIONS, as many as one message has room for.
MAX_REGIONS: Final = 8


class VhostError(EphemeralMLError):
    """The guest or QEMU broke the protocol; the device stops serving it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="vhost.protocol")


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of memory: where the guest sees it, where QEMU does, and where it lies in the file passed along."""

    guest: int
    size: int
    user: int
    offset: int


class GuestMemory:
    """Views of the guest's memory by its own addresses and by QEMU's (vhost-user, "Memory regions description").

    Every read and write goes through `guest` or `user`, which raise `VhostError` for what is not wholly inside.
    """

    def __init__(self, regions: Sequence[Region], descriptors: Sequence[int]) -> None:
        if not 0 < len(regions) <= MAX_REGIONS or len(regions) != len(descriptors):
            raise VhostError(f"{len(regions)} memory regions with {len(descriptors)} files")
        self._mapped: list[tuple[Region, memoryview]] = []
        for region, descriptor in zip(regions, descriptors, strict=True):
            if region.offset + region.size > os.fstat(descriptor).st_size:
                raise VhostError("a memory region is larger than its file")
            # From the start of the file: the offset need not be of whole pages.
            mapped = mmap.mmap(descriptor, region.offset + region.size)
            self._mapped.append((region, memoryview(mapped)[region.offset :]))

    def guest(self, address: int, size: int) -> memoryview:
        """`size` bytes at an address of the guest's."""
        for region, view in self._mapped:
            start = address - region.guest
            if start >= 0 and start + size <= region.size:
                return view[start : start + size]
        raise VhostError("the guest names memory that it does not have")

    def user(self, address: int, size: int) -> memoryview:
        """`size` bytes at an address of QEMU's."""
        for region, view in self._mapped:
            start = address - region.user
            if start >= 0 and start + size <= region.size:
                return view[start : start + size]
        raise VhostError("QEMU names memory that it did not share")
