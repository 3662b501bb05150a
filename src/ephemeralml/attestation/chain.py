"""Who signed: the document's own certificate, and its chain to the AWS Nitro root or to a root the policy names."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from ephemeralml.attestation.document import AttestationDocument
from ephemeralml.attestation.verdict import Platform
from ephemeralml.codec import cose
from ephemeralml.codec.certificates import UNREADABLE
from ephemeralml.errors import AttestationError

# https://docs.aws.amazon.com/enclaves/latest/user/verify-root.html: SHA-256 of the DER of "aws.nitro-enclaves" G1.
AWS_NITRO_ROOT_G1_SHA256: Final = bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")


def _refuse(step: str, code: str, message: str) -> NoReturn:
    raise AttestationError(message, step=step, code=f"{step}.{code}")


def verify_signature(document: AttestationDocument) -> x509.Certificate:
    """Check the ES384 signature over the raw payload and return the leaf certificate that verified it.

    Raises `AttestationError` (step ``signature``). The leaf itself is trusted by `verify_chain` only.
    """
    try:
        leaf = x509.load_der_x509_certificate(document.certificate)
        key = leaf.public_key()
    except UNREADABLE:
        _refuse("signature", "certificate", "the document's certificate cannot be read")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        _refuse("signature", "key", "the document's certificate has no P-384 key")
    if not cose.verify_es384(document.message, key):
        _refuse("signature", "invalid", "the document was altered or signed by another key")
    return leaf


def is_nitro_root(root: bytes) -> bool:
    """Whether `root` (DER) is the AWS Nitro Enclaves root G1."""
    return hmac.compare_digest(hashlib.sha256(root).digest(), AWS_NITRO_ROOT_G1_SHA256)


def _platform(root: bytes, extra_roots: Sequence[bytes]) -> Platform:
    if is_nitro_root(root):
        return "nitro"
    if any(hmac.compare_digest(root, extra) for extra in extra_roots):
        return "local"
    _refuse("chain", "untrusted_root", "the chain starts at a root that is neither AWS's nor named by the policy")


def _check_validity(certificate: x509.Certificate, at: datetime) -> None:
    if at < certificate.not_valid_before_utc:
        _refuse("chain", "not_yet_valid", f"a certificate is valid only from {certificate.not_valid_before_utc}")
    if at > certificate.not_valid_after_utc:
        _refuse("chain", "expired", f"a certificate expired at {certificate.not_valid_after_utc}")


def _check_leaf(leaf: x509.Certificate) -> None:
    """The leaf rules of AWS's process, sections 3.2.3.2 and 3.2.3.3: not a CA, allowed to sign."""
    try:
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        _refuse("chain", "leaf_extensions", "the document's certificate lacks BasicConstraints or KeyUsage")
    if constraints.ca:
        _refuse("chain", "leaf_is_ca", "the document's certificate is a CA")
    if not usage.digital_signature:
        _refuse("chain", "leaf_usage", "the document's certificate must not sign documents")


def verify_chain(
    document: AttestationDocument, leaf: x509.Certificate, *, extra_roots: Sequence[bytes], at: datetime
) -> Platform:
    """Verify `leaf` up to ``cabundle[0]``, which must be the AWS root or one of `extra_roots` (DER), at the time `at`.

    Returns which of the two it was. Raises `AttestationError` (step ``chain``).
    """
    platform = _platform(document.cabundle[0], extra_roots)
    try:
        root, *intermediates = (x509.load_der_x509_certificate(der) for der in document.cabundle)
        for certificate in (root, *intermediates, leaf):
            _check_validity(certificate, at)
        _check_leaf(leaf)
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store([root]))
            .time(at.astimezone(UTC).replace(tzinfo=None))
            # Nitro leaves carry neither a name nor an authority key identifier, so theirs are the checks above.
            .extension_policies(
                ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
                ee_policy=verification.ExtensionPolicy.permit_all(),
            )
            .build_client_verifier()
        )
        verifier.verify(leaf, intermediates)
    except verification.VerificationError:
        _refuse("chain", "invalid", "the certificates do not chain to the root: one is missing, forged or misplaced")
    except UNREADABLE:
        _refuse("chain", "certificate", "a certificate cannot be read")
    return platform
