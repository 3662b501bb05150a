"""One encrypted artifact: STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015, section 7) over ChaCha20-Poly1305.

File: header ‖ chunk 0 ‖ … ‖ chunk n-1, each chunk its ciphertext and a 16-byte tag. Chunk i's nonce is i as 11 bytes,
big-endian, then 1 for the last chunk and 0 for any other; the header is every chunk's associated data. All chunks but
the last hold exactly `chunk_size` bytes, and the last is empty only in an empty artifact: one layout per plaintext.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ephemeralml.codec import cbor

Buffer: TypeAlias = bytes | bytearray | memoryview

DEK_SIZE: Final = 32
SALT_SIZE: Final = 32
PACKAGE_ID_SIZE: Final = 16
TAG_SIZE: Final = 16

CHUNK_SIZE: Final = 1 << 20
MIN_CHUNK_SIZE: Final = 4 << 10
MAX_CHUNK_SIZE: Final = 16 << 20

_HEADER = struct.Struct(">8s16s32sI")
_MAGIC = b"EMLART\x00\x01"
_LABEL = "ephemeralml artifact v1"
HEADER_SIZE: Final = _HEADER.size


def chunk_count(size: int, chunk_size: int) -> int:
    """Chunks of an artifact of `size` plaintext bytes: at least one."""
    return max(1, -(-size // chunk_size))


def ciphertext_size(size: int, chunk_size: int) -> int:
    """Bytes of the encrypted file of an artifact of `size` plaintext bytes."""
    return HEADER_SIZE + size + TAG_SIZE * chunk_count(size, chunk_size)


def make_header(*, package_id: bytes, salt: bytes, chunk_size: int) -> bytes:
    """The header of an encrypted file: what anyone can tell it by."""
    return _HEADER.pack(_MAGIC, package_id, salt, chunk_size)


class ArtifactCipher:
    """Seals and opens the chunks of one artifact of `size` plaintext bytes, into buffers the caller owns.

    The file key is HKDF-SHA256 (RFC 5869) of the 32-byte `dek`, salted, over the label, artifact name and package id.
    A (dek, salt) pair must seal one plaintext only.
    """

    def __init__(self, dek: bytes, *, package_id: bytes, name: str, salt: bytes, size: int, chunk_size: int) -> None:
        info = cbor.encode([_LABEL, name, package_id])
        self._aead = ChaCha20Poly1305(HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(dek))
        self._size = size
        self._chunk_size = chunk_size
        self.chunks = chunk_count(size, chunk_size)
        self.header = make_header(package_id=package_id, salt=salt, chunk_size=chunk_size)

    def plaintext_length(self, index: int) -> int:
        """Plaintext bytes of chunk `index`."""
        return min(self._chunk_size, self._size - index * self._chunk_size)

    def seal_into(self, index: int, plaintext: Buffer, out: bytearray | memoryview) -> None:
        """Encrypt chunk `index` into `out`, exactly 16 bytes longer."""
        self._aead.encrypt_into(self._nonce(index), plaintext, self.header, out)

    def open_into(self, index: int, sealed: Buffer, out: bytearray | memoryview) -> None:
        """Decrypt chunk `index` into `out`, exactly 16 bytes shorter.

        Raises `cryptography.exceptions.InvalidTag`; `out` then holds nothing that may be used.
        """
        self._aead.decrypt_into(self._nonce(index), sealed, self.header, out)

    def _nonce(self, index: int) -> bytes:
        return index.to_bytes(11) + (b"\x01" if index == self.chunks - 1 else b"\x00")
