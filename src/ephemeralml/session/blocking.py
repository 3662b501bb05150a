"""Frames over a blocking socket: what the client and the enclave's boot use."""

from __future__ import annotations

import math
import select
import socket
import time
from contextlib import suppress

from ephemeralml.errors import TransportError
from ephemeralml.session.frames import HEADER, FrameType, decode_header
from ephemeralml.session.limits import WRITE_BYTES

_READ_BYTES = 64 * 1024


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises `TransportError` when the peer closes, resets or stays silent too long."""
    # Grown as bytes arrive, never by what a peer announces.
    buffer = bytearray()
    # A peer that sends a byte now and then never runs into the socket's own timeout.
    deadline = _deadline(connection)
    try:
        while len(buffer) < size:
            if buffer and time.monotonic() > deadline:
                raise TimeoutError
            chunk = connection.recv(min(size - len(buffer), _READ_BYTES))
            if not chunk:
                raise TransportError("the peer closed the connection", code="transport.closed")
            buffer += chunk
    except TimeoutError as error:
        raise TransportError("the peer did not answer in time", code="transport.timeout") from error
    except OSError as error:
        raise _broken(error) from error
    return bytes(buffer)


def write_all(connection: socket.socket, data: bytes | memoryview, *, deadline: float | None = None) -> None:
    """Write everything by `deadline` (monotonic; by default within the socket's timeout), in pieces that vsock carries.

    Raises `TransportError`.
    """
    left = memoryview(data)
    deadline = _deadline(connection) if deadline is None else deadline
    poll = select.poll()
    try:
        poll.register(connection, select.POLLOUT)
        while left:
            if not _ready(poll, deadline):
                raise TransportError("the peer does not read what is sent", code="transport.timeout")
            with suppress(BlockingIOError):
                left = left[connection.send(left[:WRITE_BYTES], socket.MSG_DONTWAIT) :]
    except (OSError, ValueError) as error:
        raise _broken(error) from error


class FrameReader:
    """Frames from a connection that is read by nobody else.

    A deadline may pass in the middle of a frame: the next `read` goes on with it. `heard` is when bytes last came.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self.heard = time.monotonic()

    def read(self, *, limit: int, deadline: float) -> tuple[FrameType, bytes]:
        """The next frame of at most `limit` bytes. Raises TimeoutError when it is not whole by `deadline` (monotonic).

        Raises `TransportError` when the connection ends or breaks, `SessionError` for a frame that may not be.
        """
        self._fill(HEADER.size, deadline)
        kind, length = decode_header(bytes(self._buffer[: HEADER.size]), limit=limit)
        end = HEADER.size + length
        self._fill(end, deadline)
        with memoryview(self._buffer) as view:
            body = bytes(view[HEADER.size : end])
        del self._buffer[:end]
        return kind, body

    def _fill(self, size: int, deadline: float) -> None:
        while len(self._buffer) < size:
            # Data that is there already counts, however late it is asked for.
            if not _ready(self._poll, deadline):
                raise TimeoutError
            try:
                chunk = self._connection.recv(_READ_BYTES)
            except OSError as error:
                raise _broken(error) from error
            if not chunk:
                raise TransportError("the peer closed the connection", code="transport.closed")
            self._buffer += chunk
            self.heard = time.monotonic()
            if self.heard > deadline and len(self._buffer) < size:
                raise TimeoutError


def _ready(poll: select.poll, deadline: float) -> bool:
    # A day at most at a time: poll(2) counts milliseconds in 31 bits.
    return bool(poll.poll(min(max(0.0, deadline - time.monotonic()), 86_400.0) * 1000))


def _deadline(connection: socket.socket) -> float:
    patience = connection.gettimeout()
    return math.inf if patience is None else time.monotonic() + patience


def _broken(error: OSError | ValueError) -> TransportError:
    why = (isinstance(error, OSError) and error.strerror) or error
    return TransportError(f"the connection broke: {why}", code="transport.closed")
