"""Ed25519 with the strict rules: no small-order public key or commitment (ed25519-dalek's ``verify_strict``)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# y-coordinates of the eight points of small order, non-canonical spellings included (RFC 8032 section 5.1.3, bit 255 is
# the sign of x). A key or commitment among them verifies messages nobody signed.
_P = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _ORDER_8, _P - _ORDER_8, _P - 1, _P, _P + 1})


def _is_small_order(point: bytes) -> bool:
    return int.from_bytes(point, "little") & (2**255 - 1) in _SMALL_ORDER


def verify_strict(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) over `message` is valid under the raw 32-byte `public_key`."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    if _is_small_order(public_key) or _is_small_order(signature[:32]):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True
