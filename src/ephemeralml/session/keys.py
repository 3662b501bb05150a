"""The key schedule: one client secret and the transcript give every key of a session, each for one purpose."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32
_KEY = 32
_ID = 16
_LABEL = b"ephemeralml session v1 keys"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Keys of one session; `session_id` and `confirmation` may be seen by anybody, the two keys by the ends alone."""

    session_id: bytes
    confirmation: bytes
    client_to_enclave: bytes = field(repr=False)
    enclave_to_client: bytes = field(repr=False)


def derive_keys(secret: bytes, *, transcript: bytes) -> SessionKeys:
    """HKDF-SHA256 (RFC 5869) over the client `secret` (32 bytes), salted with the handshake's SHA-256 `transcript`."""
    okm = HKDF(hashes.SHA256(), 3 * _KEY + _ID, salt=transcript, info=_LABEL).derive(secret)
    return SessionKeys(
        client_to_enclave=okm[:_KEY],
        enclave_to_client=okm[_KEY : 2 * _KEY],
        confirmation=okm[2 * _KEY : 3 * _KEY],
        session_id=okm[3 * _KEY :],
    )
