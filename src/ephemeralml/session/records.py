"""AEAD records: one frame, one ChaCha20-Poly1305 record, its nonce the direction's counter.

A wrong, repeated, dropped or reordered record does not open, and the first that does not ends the direction for good.
Plaintexts are padded to powers of two, since the host sees lengths.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ephemeralml.errors import SessionError
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.limits import RECORD_FRAME_BYTES, REQUEST_BYTES

SMALLEST_BUCKET = 1024
_LENGTH = struct.Struct(">I")
TAG_BYTES = 16
_MAX_RECORDS = 2**48
# The largest plaintext whose padded record fits a frame: a power of two plus the tag must stay under the cap.
MAX_PLAINTEXT = RECORD_FRAME_BYTES // 2 - _LENGTH.size
MAX_REQUEST = REQUEST_BYTES - _LENGTH.size


def padded_size(plaintext: int) -> int:
    """Bytes of the bucket that a plaintext of that many bytes travels in, before the tag."""
    return max(SMALLEST_BUCKET, 1 << (plaintext + _LENGTH.size - 1).bit_length())


class _Direction:
    def __init__(self, key: bytes, session_id: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._session_id = session_id
        self._counter = 0

    def _next(self, kind: FrameType) -> tuple[bytes, bytes]:
        if self._counter >= _MAX_RECORDS:
            raise SessionError("the session has carried all the records it may", code="record.exhausted")
        nonce = self._counter.to_bytes(12)
        self._counter += 1
        return nonce, self._session_id + bytes((kind,))


class Sealer(_Direction):
    """Seals what one end sends. Not thread-safe: the order of seals is the order on the wire."""

    def seal(self, kind: FrameType, plaintext: bytes) -> bytes:
        """The whole frame. Raises `SessionError` above `MAX_PLAINTEXT` bytes."""
        if len(plaintext) > MAX_PLAINTEXT:
            raise SessionError(f"a record of {len(plaintext)} bytes does not fit a frame", code="record.too_large")
        padding = bytes(padded_size(len(plaintext)) - _LENGTH.size - len(plaintext))
        nonce, aad = self._next(kind)
        return encode_frame(
            kind, self._aead.encrypt(nonce, b"".join((_LENGTH.pack(len(plaintext)), plaintext, padding)), aad)
        )


class Opener(_Direction):
    """Opens what one end receives, in order."""

    _broken = False

    def open(self, kind: FrameType, body: bytes) -> bytes:
        """The plaintext of a record. Raises `SessionError` when it does not open, and for all after it."""
        if self._broken:
            raise SessionError("the session ended with a record that did not open", code="record.ended")
        self._broken = True
        nonce, aad = self._next(kind)
        try:
            padded = self._aead.decrypt(nonce, body, aad)
        except InvalidTag:
            raise SessionError(
                "a record does not open: it was altered, repeated, dropped or reordered on the way",
                code="record.authentication",
            ) from None
        if len(padded) < _LENGTH.size:
            raise SessionError("a record is too short", code="record.padding")
        (length,) = _LENGTH.unpack_from(padded)
        if length > len(padded) - _LENGTH.size or padded_size(length) != len(padded):
            raise SessionError("a record's padding is not the one for its length", code="record.padding")
        self._broken = False
        return padded[_LENGTH.size : _LENGTH.size + length]
