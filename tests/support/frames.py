"""Frames over a blocking socket, one at a time."""

from __future__ import annotations

import socket

from ephemeralml.session.blocking import read_exactly
from ephemeralml.session.frames import HEADER, FrameType, decode_header


def read_frame(connection: socket.socket, *, limit: int) -> tuple[FrameType, bytes]:
    """One frame of at most `limit` bytes, and nothing after it."""
    kind, length = decode_header(read_exactly(connection, HEADER.size), limit=limit)
    return kind, read_exactly(connection, length)
