"""The certificate of whoever signs an image: PEM in the image, its DER in PCR8."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ephemeralml.codec import cose
from ephemeralml.codec.certificates import UNREADABLE
from ephemeralml.errors import ImageError
from ephemeralml.image.layout import MAX_SIGNATURE_BYTES
from ephemeralml.image.pieces import Piece, read_small

_CODE = "image.certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningCertificate:
    """A certificate on P-256, P-384 or P-521. Nobody vouches for it: PCR8 in a policy is what makes it count."""

    pem: bytes = field(repr=False)
    der: bytes = field(repr=False)
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    public_key: ec.EllipticCurvePublicKey
    algorithm: int

    @classmethod
    def load(cls, piece: Piece) -> SigningCertificate:
        """From PEM, bytes or a path. Raises OSError, or `ImageError` (``image.certificate``)."""
        return cls.parse(
            read_small(piece, limit=MAX_SIGNATURE_BYTES, what="the image's signing certificate", code=_CODE)
        )

    @classmethod
    def parse(cls, pem: bytes) -> SigningCertificate:
        """The first certificate in `pem`. Raises `ImageError` (``image.certificate``)."""
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            key = certificate.public_key()
            algorithm = cose.ecdsa_algorithm(key) if isinstance(key, ec.EllipticCurvePublicKey) else None
            if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
                raise ImageError("the image's signing certificate must have a key on P-256, P-384 or P-521", code=_CODE)
            return cls(
                pem=pem,
                der=certificate.public_bytes(Encoding.DER),
                subject=certificate.subject.rfc4514_string(),
                issuer=certificate.issuer.rfc4514_string(),
                not_before=certificate.not_valid_before_utc,
                not_after=certificate.not_valid_after_utc,
                public_key=key,
                algorithm=algorithm,
            )
        except UNREADABLE:
            raise ImageError("the image's signing certificate is not a certificate in PEM", code=_CODE) from None

    def valid(self, at: datetime) -> bool:
        """Whether `at` lies in the certificate's period."""
        return self.not_before <= at <= self.not_after
