"""Memory that clients can make the enclave hold: counted before it is allocated."""

from __future__ import annotations

from ephemeralml.errors import BusyError, RequestError


class Budget:
    """Bytes in use against a cap; a child counts against its parent too. For one event loop's use."""

    def __init__(self, cap: int, parent: Budget | None = None) -> None:
        self._cap = cap
        self._parent = parent
        self._used = 0

    def take(self, size: int) -> None:
        """Raises `BusyError` when that many bytes are not free, `RequestError` when they never will be."""
        if size > self._cap:
            raise RequestError(
                "the request and its answer are too large; send fewer texts at a time", code="request.size"
            )
        if self._used + size > self._cap:
            raise BusyError("the enclave holds as many requests and answers as it may")
        self._grow(size)

    def give(self, size: int) -> None:
        """Return bytes that were taken."""
        self._grow(-size)

    def _grow(self, size: int) -> None:
        used = self._used + size
        if self._parent is not None:
            more = self._rounded(used) - self._rounded(self._used)
            if more > 0:
                self._parent.take(more)
            else:
                self._parent.give(-more)
        self._used = used

    def _rounded(self, used: int) -> int:
        """What the parent counts: a power of two, as records are. Whoever fills the rest and sees another refused
        would else learn to the byte what that one holds.
        """
        return min(1 << (used - 1).bit_length(), self._cap) if used else 0
