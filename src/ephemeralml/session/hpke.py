"""The one suite: HPKE base mode (RFC 9180), ML-KEM-768 + X25519, HKDF-SHA256, ChaCha20-Poly1305; no negotiation."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ephemeralml.errors import SessionError

PUBLIC_KEY_BYTES = 1184 + 32

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_MLKEM_BYTES = 1184
ENC_BYTES = hpke.KEM.MLKEM768_X25519.enc_length()


class HpkeKey:
    """A recipient's key pair. `public_bytes` is the ML-KEM-768 encapsulation key (1184) ‖ the X25519 key (32)."""

    def __init__(self) -> None:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._private = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public_bytes = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Open ``enc ‖ ciphertext``. Raises `SessionError` for anything that was not sealed to this key and `info`."""
        try:
            return _SUITE.decrypt(sealed, self._private, info=info)
        except (InvalidTag, ValueError):
            raise SessionError("the client's secret does not open with this enclave's key", code="open.hpke") from None


def seal(plaintext: bytes, public_bytes: bytes, *, info: bytes) -> bytes:
    """Seal to a recipient's `public_bytes`; returns ``enc ‖ ciphertext``. Raises `SessionError` for a malformed key."""
    if len(public_bytes) != PUBLIC_KEY_BYTES:
        raise SessionError(f"the enclave's HPKE key is not {PUBLIC_KEY_BYTES} bytes", code="evidence.hpke_key")
    try:
        key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public_bytes[:_MLKEM_BYTES]),
            X25519PublicKey.from_public_bytes(public_bytes[_MLKEM_BYTES:]),
        )
        return _SUITE.encrypt(plaintext, key, info=info)
    except ValueError:
        raise SessionError("the enclave's HPKE key is not a valid one", code="evidence.hpke_key") from None
