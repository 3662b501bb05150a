"""The Nitro Secure Module as the device that Linux drives (drivers/misc/nsm.c): one ring, a request and its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from ephemeralml.devcloud.vhost.server import Device

VIRTIO_ID: Final = 33
"""VIRTIO_ID_NITRO_SEC_MOD (linux/virtio_ids.h)."""

_REQUEST_BYTES: Final = 0x1000


class NsmDevice(Device):
    """`handle` answers the bytes of one request, as `SoftwareNsm.handle` does."""

    ring_count: ClassVar = 1

    def __init__(self, handle: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._handle = handle

    def serve(self) -> None:
        """Answer every request that is there."""
        if not self.rings:
            return
        (ring,) = self.rings
        while (chain := ring.pop()) is not None:
            # One byte more shows the module that a request is too long.
            ring.push(chain, chain.write(self._handle(chain.read()[: _REQUEST_BYTES + 1])))
