"""What S3 holds compared with a file, without fetching it: the SHA-256 that S3 computes itself, computed here as well.

Source: Amazon S3 User Guide, "Checking object integrity for data uploads". Of an object that went up in parts, S3 has
no SHA-256 of the whole, only a composite one, of its parts' digests: so the parts' size is part of the agreement.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from boto3.s3.transfer import TransferConfig

from ephemeralml.package import Reader

PART_BYTES: Final = 8 << 20
# An object of at least one part goes up in parts.
TRANSFER: Final = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
UPLOAD: Final = {"ChecksumAlgorithm": "SHA256"}

_PIECE_BYTES: Final = 1 << 20


def file_checksum(read: Reader, size: int) -> str:
    """S3's SHA-256 of the first `size` bytes of `read` once they are uploaded with `TRANSFER` and `UPLOAD`, base64."""
    if size < PART_BYTES:
        return _text(_digest(read, size))
    parts = (_digest(read, min(PART_BYTES, size - start)) for start in range(0, size, PART_BYTES))
    return _text(sha256(b"".join(parts)).digest())


def holds(answer: Mapping[str, Any], checksum: str, size: int) -> bool:
    """Whether an answer of HeadObject in checksum mode is about an object of that `file_checksum` and `size`.

    False also where S3 has no SHA-256 of it: whoever uploaded it did not ask for one.
    """
    # The count of parts that may follow adds nothing: with the size compared, equal digests have equal parts.
    digest, _, _ = str(answer.get("ChecksumSHA256", "")).partition("-")
    return int(answer["ContentLength"]) == size and digest == checksum


def _digest(read: Reader, size: int) -> bytes:
    digest = sha256()
    while size and (piece := read(min(size, _PIECE_BYTES))):
        digest.update(piece)
        size -= len(piece)
    return digest.digest()


def _text(digest: bytes) -> str:
    return b64encode(digest).decode()
