"""The guest's memory: what QEMU shares of it, mapped here, and found again by either of its two addresses."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from ephemeralml.devcloud.vhost.violation import DeviceViolationError

# vhost-user, "Memory regions description": at most 8 without further protocol features.
MAX_REGIONS: Final = 8
_COUNT: Final = struct.Struct("<II")
_REGION: Final = struct.Struct("<QQQQ")
_ADDRESSES: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class _Region:
    guest: int
    user: int
    size: int
    view: memoryview


class GuestMemory:
    """The regions of one SET_MEM_TABLE. Views of them must not outlive it: the memory is unmapped with the last one."""

    def __init__(self, regions: Sequence[_Region] = ()) -> None:
        self._regions = tuple(regions)

    @classmethod
    def map(cls, payload: bytes, descriptors: Sequence[int]) -> Self:
        """Map the regions of a message; `descriptors` stay the caller's to close.

        Raises `DeviceViolationError` (``vhost.memory``).
        """
        if len(payload) < _COUNT.size:
            raise _refused("a table without its count")
        count, _ = _COUNT.unpack_from(payload)
        if not 0 < count <= MAX_REGIONS or len(payload) != _COUNT.size + count * _REGION.size:
            raise _refused(f"a table of {count} regions in {len(payload)} bytes")
        if len(descriptors) != count:
            raise _refused(f"{count} regions with {len(descriptors)} descriptors")
        regions = []
        for entry, descriptor in zip(_REGION.iter_unpack(payload[_COUNT.size :]), descriptors, strict=True):
            guest, size, user, offset = entry
            regions.append(_map(guest, size, user, offset, descriptor))
        return cls(regions)

    def guest(self, address: int, size: int) -> memoryview:
        """`size` bytes at a guest-physical address. Raises `DeviceViolationError` (``vhost.ring``)."""
        for region in self._regions:
            start = address - region.guest
            if start >= 0 and start + size <= region.size:
                return region.view[start : start + size]
        raise DeviceViolationError(
            f"the guest names {size} bytes at {address:#x}, which is no memory of its", code="vhost.ring"
        )

    def user(self, address: int, size: int) -> memoryview:
        """`size` bytes at an address of QEMU's own. Raises `DeviceViolationError` (``vhost.memory``)."""
        for region in self._regions:
            start = address - region.user
            if start >= 0 and start + size <= region.size:
                return region.view[start : start + size]
        raise _refused(f"{size} bytes at {address:#x}, which is in no region")


def _map(guest: int, size: int, user: int, offset: int, descriptor: int) -> _Region:
    if not size or max(guest, user, offset) + size > _ADDRESSES:
        raise _refused("a region that is empty or goes round the end of all addresses")
    # A mapping begins with a page. Python maps nothing beyond a file's end, whose first use would be a signal.
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapping = mmap.mmap(descriptor, offset - begin + size, offset=begin)
    except (OSError, ValueError, OverflowError) as error:
        raise _refused(f"a region that cannot be mapped: {error}") from error
    return _Region(guest, user, size, memoryview(mapping)[offset - begin :])


def _refused(what: str) -> DeviceViolationError:
    return DeviceViolationError(f"the front-end's memory: {what}", code="vhost.memory")
