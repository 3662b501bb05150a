"""Frames over a blocking socket: what the client and the enclave's boot use."""

from __future__ import annotations

import math
import socket
import time

from ephemeralml.errors import TransportError
from ephemeralml.session.frames import HEADER, FrameType, decode_header
from ephemeralml.session.limits import WRITE_BYTES


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises `TransportError` when the peer closes, resets or stays silent too long."""
    # Grown as bytes arrive, never by what a peer announces.
    buffer = bytearray()
    patience = connection.gettimeout()
    deadline = time.monotonic() + (math.inf if patience is None else patience)
    try:
        while len(buffer) < size:
            # A peer that sends a byte now and then never runs into the socket's own timeout.
            if buffer and time.monotonic() > deadline:
                raise TimeoutError
            chunk = connection.recv(min(size - len(buffer), 256 * 1024))
            if not chunk:
                raise TransportError("the peer closed the connection", code="transport.closed")
            buffer += chunk
    except TimeoutError as error:
        raise TransportError("the peer did not answer in time", code="transport.timeout") from error
    except OSError as error:
        raise TransportError(f"the connection broke: {error.strerror or error}", code="transport.closed") from error
    return bytes(buffer)


def read_frame(connection: socket.socket, *, limit: int) -> tuple[FrameType, bytes]:
    """One frame of at most `limit` bytes. Raises `TransportError` or `SessionError`."""
    kind, length = decode_header(read_exactly(connection, HEADER.size), limit=limit)
    return kind, read_exactly(connection, length)


def write_all(connection: socket.socket, data: bytes) -> None:
    """Write everything, in pieces that vsock carries well. Raises `TransportError`."""
    view = memoryview(data)
    try:
        for start in range(0, len(view), WRITE_BYTES):
            connection.sendall(view[start : start + WRITE_BYTES])
    except TimeoutError as error:
        raise TransportError("the peer does not read what is sent", code="transport.timeout") from error
    except OSError as error:
        raise TransportError(f"the connection broke: {error.strerror or error}", code="transport.closed") from error
