"""COSE_Sign1 (RFC 9052 section 4.2): parse, sign and verify over the raw bytes, nothing is re-encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ephemeralml.codec import cbor, ed25519
from ephemeralml.errors import CodecError

ALG: Final = 1
CONTENT_TYPE: Final = 3
EDDSA: Final = -8
ES256: Final = -7
ES384: Final = -35
ES512: Final = -36

_TAG_18 = b"\xd2"
# RFC 9053 section 2.1, each with the curve it is recommended for: algorithm, hash, bytes of r and of s.
_ECDSA: Final[Mapping[str, tuple[int, hashes.HashAlgorithm, int]]] = {
    "secp256r1": (ES256, hashes.SHA256(), 32),
    "secp384r1": (ES384, hashes.SHA384(), 48),
    "secp521r1": (ES512, hashes.SHA512(), 66),
}


@dataclass(frozen=True, slots=True)
class Sign1:
    """A parsed COSE_Sign1. `protected` and `payload` are the raw bytes the signature covers."""

    protected: bytes
    unprotected: Mapping[int | str, cbor.Value]
    payload: bytes
    signature: bytes

    def to_be_signed(self) -> bytes:
        """The Sig_structure (RFC 9052 section 4.4) with empty external_aad."""
        return cbor.encode(["Signature1", self.protected, b"", self.payload])


def parse(data: bytes, *, tagged: bool, limit: int) -> Sign1:
    """Read a COSE_Sign1 of at most `limit` bytes; `tagged` says whether tag 18 must or must not be there.

    Raises `CodecError` for anything but a four-element array of byte string, map, byte string, byte string.
    """
    if len(data) > limit:
        raise CodecError(f"{len(data)} bytes, more than the {limit} allowed", code="cose.size")
    if data.startswith(_TAG_18) != tagged:
        raise CodecError(f"COSE_Sign1 tag 18 must {'' if tagged else 'not '}be present", code="cose.tag")
    value = cbor.decode_foreign(data[1:] if tagged else data, limit=limit)
    if not isinstance(value, list) or len(value) != 4:
        raise CodecError("not a COSE_Sign1: an array of four is needed", code="cose.structure")
    protected, unprotected, payload, signature = value
    if (
        not isinstance(protected, bytes)
        or not isinstance(unprotected, dict)
        or not isinstance(payload, bytes)
        or not isinstance(signature, bytes)
    ):
        raise CodecError("not a COSE_Sign1: wrong types inside", code="cose.structure")
    return Sign1(protected, unprotected, payload, signature)


def sign(
    payload: bytes,
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    *,
    protected: dict[int, int],
    tagged: bool,
) -> bytes:
    """Sign `payload` with an Ed25519, P-256, P-384 or P-521 key; the whole COSE_Sign1, its unprotected header empty."""
    header = cbor.encode(protected)
    message = Sign1(header, {}, payload, b"").to_be_signed()
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(message)
    else:
        _, hash_, size = _ECDSA[key.curve.name]
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hash_)))
        signature = r.to_bytes(size) + s.to_bytes(size)
    return (_TAG_18 if tagged else b"") + cbor.encode([header, {}, payload, signature])


def verify_ed25519(message: Sign1, public_key: bytes) -> bool:
    """Whether the signature is a strict Ed25519 one by the raw 32-byte `public_key`."""
    return ed25519.verify_strict(public_key, message.signature, message.to_be_signed())


def ecdsa_algorithm(public_key: ec.EllipticCurvePublicKey) -> int | None:
    """ES256, ES384 or ES512, whichever the key's curve is for; None for another curve."""
    suite = _ECDSA.get(public_key.curve.name)
    return None if suite is None else suite[0]


def verify_es384(message: Sign1, public_key: ec.EllipticCurvePublicKey) -> bool:
    """Whether the signature is ES384 (96 raw bytes r ‖ s, RFC 9053 section 2.1) by `public_key` on P-384."""
    return ecdsa_algorithm(public_key) == ES384 and verify_ecdsa(message, public_key)


def verify_ecdsa(message: Sign1, public_key: ec.EllipticCurvePublicKey) -> bool:
    """Whether the signature (r ‖ s) is by `public_key` in the algorithm `ecdsa_algorithm` names for it."""
    suite = _ECDSA.get(public_key.curve.name)
    if suite is None or len(message.signature) != 2 * suite[2]:
        return False
    _, hash_, size = suite
    r, s = int.from_bytes(message.signature[:size]), int.from_bytes(message.signature[size:])
    try:
        public_key.verify(encode_dss_signature(r, s), message.to_be_signed(), ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True
