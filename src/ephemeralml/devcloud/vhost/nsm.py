"""The Nitro Security Module as a virtio device (number 33): one ring, a request and then a room for its answer.

There is no specification of it; this is what Linux's driver does (drivers/misc/nsm.c): two buffers, the request to be
read and the answer to be written, of which it expects both back, in this order, when it is notified for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ephemeralml.devcloud.nsm import MAX_REQUEST_BYTES, SoftwareNsm
from ephemeralml.devcloud.vhost.queue import Chain, Virtqueue
from ephemeralml.devcloud.vhost.violation import DeviceViolationError

RESPONSE_BYTES: Final = 0x3000


class NsmDevice:
    """Answers with `software`, one request at a time."""

    rings = 1
    configuration = b""

    def __init__(self, software: SoftwareNsm) -> None:
        self._software = software
        self._request: Chain | None = None

    def attach(self, wake: Callable[[], None]) -> None:
        """There is nothing that it would say by itself."""

    def reset(self) -> None:
        """Forget half a request."""
        self._request = None

    def serve(self, queues: Sequence[Virtqueue | None]) -> bool:
        """Answer one request, if there is a whole one. Raises `DeviceViolationError` (``vhost.ring``)."""
        (queue,) = queues
        if queue is None or (chain := queue.take()) is None:
            return False
        if self._request is None and not chain.writable:
            self._request = chain
            return True
        request, self._request = self._request, None
        if request is None or chain.readable or chain.room != RESPONSE_BYTES:
            raise DeviceViolationError(
                f"the guest's security module gets a request, then a room of {RESPONSE_BYTES} bytes, and nothing else",
                code="vhost.ring",
            )
        content = request.read(MAX_REQUEST_BYTES)
        if content is None:
            raise DeviceViolationError(
                f"the guest asks its security module with more than {MAX_REQUEST_BYTES} bytes", code="vhost.ring"
            )
        # The driver looks once, with the first notification.
        queue.give((request, 0), (chain, chain.write(self._software.handle(content))))
        queue.notify()
        return True
