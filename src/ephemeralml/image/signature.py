"""The signature section: a COSE_Sign1 over PCR0, and the certificate of who made it.

CBOR as AWS's tools write it: byte strings as arrays of numbers, keys in the order of their declaration.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.codec import cbor, cose
from ephemeralml.errors import CodecError, ImageError
from ephemeralml.image.certificate import SigningCertificate
from ephemeralml.image.layout import MAX_SIGNATURE_BYTES
from ephemeralml.image.pieces import Piece, read_small

_MAX_KEY_BYTES = 16 << 10
_CERTIFICATE, _SIGNATURE = "signing_certificate", "signature"
# An array of one map of two: the specification allows more, but nothing would check them.
_ONE_PAIR = b"\x81\xa2"


def _bad(message: str) -> ImageError:
    return ImageError(f"enclave image: {message}", code="image.signature")


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed signature section, not verified."""

    certificate: SigningCertificate
    message: cose.Sign1

    @classmethod
    def parse(cls, section: bytes) -> Signature:
        """Read the section. Raises `ImageError` (``image.signature``, ``image.certificate``)."""
        try:
            value = cbor.decode_foreign(section, limit=MAX_SIGNATURE_BYTES, max_items=MAX_SIGNATURE_BYTES)
        except CodecError as error:
            raise _bad(f"the signature section cannot be read: {error}") from error
        if not isinstance(value, list) or len(value) != 1:
            raise _bad("the signature section must hold one signature, that of PCR0")
        pair = value[0]
        if not isinstance(pair, dict) or pair.keys() != {_CERTIFICATE, _SIGNATURE}:
            raise _bad("a signature must have a signing certificate and a signature")
        signed = _octets(pair[_SIGNATURE])
        try:
            message = cose.parse(signed, tagged=False, limit=MAX_SIGNATURE_BYTES)
        except CodecError as error:
            raise _bad(f"the signature cannot be read: {error}") from error
        return cls(SigningCertificate.parse(_octets(pair[_CERTIFICATE])), message)

    def verify(self, pcr0: bytes) -> None:
        """Check that the certificate's key signed this PCR0, whenever. Raises `ImageError` (``image.signature``)."""
        header = cbor.encode({cose.ALG: self.certificate.algorithm})
        if self.message.protected != header or self.message.unprotected:
            raise _bad("the signature's algorithm is not the one for its certificate's key")
        if not cose.verify_ecdsa(self.message, self.certificate.public_key):
            raise _bad("the signature is not by the key of the signing certificate")
        if self.message.payload != _payload(pcr0):
            raise _bad("the signature is of another image: it does not cover this PCR0")


class ImageSigner:
    """A signing certificate and its private key."""

    def __init__(self, certificate: SigningCertificate, key: ec.EllipticCurvePrivateKey) -> None:
        if key.public_key() != certificate.public_key:
            raise ImageError("the private key is not that of the image's signing certificate", code="image.signing_key")
        self.certificate = certificate
        self._key = key

    @classmethod
    def load(cls, *, certificate: Piece, key: Piece) -> ImageSigner:
        """From PEM, bytes or paths; the key without a passphrase.

        Raises OSError, or `ImageError` (``image.certificate``, ``image.signing_key``).
        """
        signer = SigningCertificate.load(certificate)
        pem = read_small(key, limit=_MAX_KEY_BYTES, what="the image's signing key", code="image.signing_key")
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            # From None: the parser's own message could quote the file.
            raise ImageError(
                "the image's signing key must be an unencrypted ECDSA key in PEM", code="image.signing_key"
            ) from None
        return cls(signer, private)

    def sign(self, pcr0: bytes) -> bytes:
        """The signature section for an image with this PCR0. Raises `ImageError` when it would be too large."""
        protected = {cose.ALG: self.certificate.algorithm}
        signed = cose.sign(_payload(pcr0), self._key, protected=protected, tagged=False)
        pairs = ((_CERTIFICATE, self.certificate.pem), (_SIGNATURE, signed))
        section = _ONE_PAIR + b"".join(cbor.encode(name) + cbor.encode(list(content)) for name, content in pairs)
        if len(section) > MAX_SIGNATURE_BYTES:
            raise ImageError(
                "the signing certificate's file is too large; give one certificate and no text around it",
                code="image.certificate",
            )
        return section


def _payload(pcr0: bytes) -> bytes:
    # Both keys have 14 letters, so the deterministic order is the one of the declaration.
    return cbor.encode({"register_index": 0, "register_value": list(pcr0)})


def _octets(value: cbor.Value) -> bytes:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= 255 for item in value):
        raise _bad("a certificate or signature is not an array of bytes")
    return bytes(item for item in value if isinstance(item, int))
