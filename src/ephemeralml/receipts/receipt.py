"""Issue and verify one AIR v1 receipt: a tagged COSE_Sign1 with Ed25519 over its claims."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ephemeralml.codec import cbor, cose
from ephemeralml.errors import CodecError, ReceiptError
from ephemeralml.receipts.claims import Claims, decode_payload
from ephemeralml.receipts.policy import POLICY_CHECKS, ReceiptPolicy

MAX_RECEIPT_BYTES: Final = 65_536

_CWT = 61
_PROTECTED: Final = {cose.ALG: cose.EDDSA, cose.CONTENT_TYPE: _CWT}
_PROTECTED_BYTES: Final = cbor.encode(_PROTECTED)
_TAG_18 = b"\xd2"
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Receipt:
    """A verified receipt. `checks` names the policy checks that ran and passed."""

    raw: bytes
    claims: Claims
    checks: tuple[str, ...] = ()

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole receipt, 32 bytes: its identity, since one receipt has one encoding."""
        return hashlib.sha256(self.raw).digest()

    @property
    def skipped(self) -> tuple[str, ...]:
        """The policy checks nobody asked for."""
        return tuple(check for check in POLICY_CHECKS if check not in self.checks)


def issue_receipt(claims: Claims, key: Ed25519PrivateKey) -> bytes:
    """Sign `claims` and return the receipt's bytes. `Claims` cannot hold what `verify_receipt` would refuse."""
    return cose.sign(claims.to_payload(), key, protected=_PROTECTED, tagged=True)


def verify_receipt(raw: bytes, *, public_key: bytes | Ed25519PublicKey, policy: ReceiptPolicy | None = None) -> Receipt:
    """Verify a receipt through the draft's four layers, each only after the one before.

    `public_key` is the signer's, 32 raw bytes; whose it is must come from verified evidence. Raises `ReceiptError`
    whose ``layer`` is 1 parse, 2 signature, 3 claims or 4 policy; without `policy`, layer 4 has nothing to check.
    """
    message = _parse(raw)
    payload = decode_payload(message.payload)
    _verify_signature(message, public_key)
    claims = Claims.from_map(payload)
    return Receipt(raw=raw, claims=claims, checks=policy.check(claims) if policy else ())


def _parse(raw: bytes) -> cose.Sign1:
    if len(raw) > MAX_RECEIPT_BYTES:
        _refuse("RECEIPT_TOO_LARGE", f"{len(raw)} bytes, more than {MAX_RECEIPT_BYTES}")
    try:
        message = cose.parse(raw, tagged=True, limit=MAX_RECEIPT_BYTES)
    except CodecError as error:
        raise ReceiptError(f"not a tagged COSE_Sign1 ({error.code})", layer=1, code="COSE_DECODE_FAILED") from error
    if message.unprotected:
        _refuse("NON_EMPTY_UNPROTECTED", "the unprotected header must be empty")
    if message.protected != _PROTECTED_BYTES:
        _refuse_header(message.protected)
    if not message.payload:
        _refuse("MISSING_PAYLOAD", "the payload is empty")
    # One receipt, one encoding: an envelope that can be respelled would give it a second hash.
    if raw != _TAG_18 + cbor.encode([message.protected, {}, message.payload, message.signature]):
        _refuse("NON_DETERMINISTIC_CBOR", "the envelope is not deterministically encoded")
    return message


def _refuse_header(protected: bytes) -> NoReturn:
    """Say what is wrong with a protected header that is not the only one allowed."""
    try:
        header = cbor.decode(protected) if protected else {}
    except CodecError as error:
        code = "NON_DETERMINISTIC_CBOR" if error.code == "cbor.order" else "COSE_DECODE_FAILED"
        raise ReceiptError(f"the protected header is not acceptable CBOR ({error.code})", layer=1, code=code) from error
    if not isinstance(header, Mapping):
        _refuse("COSE_DECODE_FAILED", "the protected header is not a map")
    if header.get(cose.ALG) != cose.EDDSA:
        _refuse("BAD_ALG", f"alg must be {cose.EDDSA} (EdDSA)")
    if header.get(cose.CONTENT_TYPE) != _CWT:
        _refuse("BAD_CONTENT_TYPE", f"content type must be {_CWT} (application/cwt)")
    _refuse("PROTECTED_HEADER_NOT_CLOSED", "the protected header holds more than alg and content type")


def _verify_signature(message: cose.Sign1, public_key: bytes | Ed25519PublicKey) -> None:
    if len(message.signature) != _SIGNATURE_BYTES:
        raise ReceiptError(f"the signature must be {_SIGNATURE_BYTES} bytes", layer=2, code="BAD_SIG_LENGTH")
    key = public_key if isinstance(public_key, bytes) else public_key.public_bytes_raw()
    if not cose.verify_ed25519(message, key):
        raise ReceiptError("the signature is not by this key over these bytes", layer=2, code="SIG_FAILED")


def _refuse(code: str, message: str) -> NoReturn:
    raise ReceiptError(message, layer=1, code=code)
