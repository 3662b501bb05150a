"""CiphertextBlob: AES-256-GCM under the key's material, naming the key so that Decrypt can find it.

Layout: ``01 | key id (UUID, 16 bytes) | nonce (12) | ciphertext and tag``; AAD = the first 17 bytes ‖ the encryption
context as deterministic CBOR. AWS's own layout is not public, and callers treat it as opaque.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ephemeralml.codec import cbor
from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.store import StoredKey

MAX_BLOB_BYTES: Final = 6144

_VERSION: Final = b"\x01"
_HEADER: Final = 17
_NONCE: Final = 12
_TAG: Final = 16


def seal(plaintext: bytes, *, key: StoredKey, context: Mapping[str, str]) -> bytes:
    """Encrypt under `key`, bound to the encryption context."""
    header = _VERSION + uuid.UUID(key.key_id).bytes
    nonce = os.urandom(_NONCE)
    return header + nonce + AESGCM(key.material).encrypt(nonce, plaintext, header + cbor.encode(dict(context)))


def key_id(blob: bytes) -> str:
    """The id of the key a blob names. Raises `ApiError` InvalidCiphertextException when it is not a blob of ours."""
    if not _HEADER + _NONCE + _TAG <= len(blob) <= MAX_BLOB_BYTES or not blob.startswith(_VERSION):
        raise _invalid()
    return str(uuid.UUID(bytes=blob[1:_HEADER]))


def unseal(blob: bytes, *, key: StoredKey, context: Mapping[str, str]) -> bytes:
    """Decrypt. Raises `ApiError` InvalidCiphertextException for a changed blob and for another encryption context."""
    header, nonce, sealed = blob[:_HEADER], blob[_HEADER : _HEADER + _NONCE], blob[_HEADER + _NONCE :]
    try:
        return AESGCM(key.material).decrypt(nonce, sealed, header + cbor.encode(dict(context)))
    except InvalidTag:
        raise _invalid() from None


def _invalid() -> ApiError:
    # AWS sends this one without a message.
    return ApiError("InvalidCiphertextException", "")
