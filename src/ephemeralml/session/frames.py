"""Frames: ``u32 length | u8 type | body``, big endian, the length counting the body alone."""

from __future__ import annotations

import struct
from enum import IntEnum

from ephemeralml.errors import SessionError

# A code and a sentence, padded and sealed where it is a record.
NOTICE_BYTES = 2048
HEADER = struct.Struct(">IB")
# How a web server's answer begins (RFC 9112, section 4). Read as a header it announces more than any limit allows.
_HTTP = b"HTTP/"


class FrameType(IntEnum):
    """What a frame carries. The first five are readable by the relay, the rest are sealed records."""

    HELLO = 0x01
    EVIDENCE = 0x02
    OPEN = 0x03
    ACCEPT = 0x04
    # Unauthenticated by nature: whoever is on the path can send one, so it only ever ends things.
    ALERT = 0x05
    REQUEST = 0x10
    RESPONSE = 0x11
    REFUSAL = 0x12
    CLOSE = 0x13


def encode_frame(kind: FrameType, body: bytes) -> bytes:
    """One frame, header included."""
    return HEADER.pack(len(body), kind) + body


def decode_header(header: bytes, *, limit: int) -> tuple[FrameType, int]:
    """Type and body length of a five-byte header. Raises `SessionError` above `limit` and for what is no frame."""
    if header == _HTTP:
        raise SessionError(
            "the peer answered in HTTP, so it is no relay: give the address of the host's relay, not of a gateway",
            code="frame.http",
        )
    length, number = HEADER.unpack(header)
    if number in {FrameType.ALERT, FrameType.CLOSE}:
        limit = min(limit, NOTICE_BYTES)
    if length > limit:
        raise SessionError(f"the peer announced a frame of {length} bytes, {limit} are allowed", code="frame.too_large")
    try:
        return FrameType(number), length
    except ValueError:
        raise SessionError(f"the peer sent an unknown frame type {number}", code="frame.unknown") from None
