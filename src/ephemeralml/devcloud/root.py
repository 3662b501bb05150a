"""A development root made on the spot, and certificate chains of the shape AWS's Nitro PKI issues.

Names, lifetimes, path lengths and extensions follow the genuine chains; whoever holds the key can attest anything, so
evidence under such a root is never confidential.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ephemeralml.errors import ConfigurationError

CERTIFICATE_FILE: Final = "root.der"
KEY_FILE: Final = "root.key"

LEAF_LIFETIME: Final = timedelta(hours=3)
_ROOT_LIFETIME = timedelta(days=3650)
_CA_BACKDATED = timedelta(hours=1)
_LEAF_BACKDATED = timedelta(seconds=3)

_PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey


def _new_key() -> _PrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _name(common_name: str) -> x509.Name:
    attributes = {
        NameOID.COUNTRY_NAME: "US",
        NameOID.ORGANIZATION_NAME: "EphemeralML",
        NameOID.ORGANIZATIONAL_UNIT_NAME: "Development, not confidential",
        NameOID.COMMON_NAME: common_name,
    }
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes.items()])


def _key_usage(*granted: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in granted for name in names})


def _builder(subject: x509.Name, issuer: x509.Name, key: _PrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authority:
    certificate: x509.Certificate
    key: _PrivateKey = field(repr=False)

    def issue_authority(self, common_name: str, *, path_length: int, now: datetime, lifetime: timedelta) -> _Authority:
        key = _new_key()
        issuer_key = self.certificate.public_key()
        certificate = (
            _builder(_name(common_name), self.certificate.subject, key)
            .not_valid_before(now - _CA_BACKDATED)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)  # type: ignore[arg-type]
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_key_usage("digital_signature", "key_cert_sign", "crl_sign"), critical=True)
            .sign(self.key, hashes.SHA384())
        )
        return _Authority(certificate=certificate, key=key)

    def issue_leaf(self, common_name: str, key: _PrivateKey, *, now: datetime) -> x509.Certificate:
        return (
            _builder(_name(common_name), self.certificate.subject, key)
            .not_valid_before(now - _LEAF_BACKDATED)
            .not_valid_after(now + LEAF_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature", "content_commitment"), critical=False)
            .sign(self.key, hashes.SHA384())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A leaf that may sign documents: its key, its DER, and its issuers' DER from the root down."""

    key: _PrivateKey = field(repr=False)
    certificate: bytes
    cabundle: tuple[bytes, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DevelopmentRoot:
    """A self-signed P-384 CA for one laptop or test run. Name its `der` in `Policy.extra_roots` to accept it."""

    certificate: x509.Certificate
    key: _PrivateKey = field(repr=False)

    @classmethod
    def create(cls) -> DevelopmentRoot:
        """Make a new root, valid for ten years."""
        key = _new_key()
        name = _name("development.nitro-enclaves")
        now = datetime.now(UTC)
        certificate = (
            _builder(name, name, key)
            .not_valid_before(now - _CA_BACKDATED)
            .not_valid_after(now + _ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_key_usage("digital_signature", "key_cert_sign", "crl_sign"), critical=True)
            .sign(key, hashes.SHA384())
        )
        return cls(certificate=certificate, key=key)

    @property
    def der(self) -> bytes:
        """The certificate's DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def save(self, folder: str | Path) -> None:
        """Write ``root.der`` and ``root.key`` (PKCS #8 PEM, mode 0600) into `folder`, which is made if need be.

        Raises `ConfigurationError` when that fails or a root is there already.
        """
        path = Path(folder)
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            path.mkdir(parents=True, exist_ok=True)
            made = []
            try:
                # The certificate last: whoever finds it takes the root for whole.
                for name, content, mode in ((KEY_FILE, pem, 0o600), (CERTIFICATE_FILE, self.der, 0o644)):
                    descriptor = os.open(path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                    made.append(path / name)
                    with os.fdopen(descriptor, "wb") as file:
                        file.write(content)
            except BaseException:
                for file_made in made:
                    file_made.unlink()
                raise
        except OSError as error:
            raise ConfigurationError(
                f"development root: cannot save into {path}: {error.strerror}", code="development_root.save"
            ) from error

    @classmethod
    def load(cls, folder: str | Path) -> DevelopmentRoot:
        """Read what `save` wrote. Raises `ConfigurationError` when it is missing, damaged or not a pair."""
        path = Path(folder)
        try:
            certificate = x509.load_der_x509_certificate((path / CERTIFICATE_FILE).read_bytes())
            key = load_pem_private_key((path / KEY_FILE).read_bytes(), password=None)
            paired = key.public_key() == certificate.public_key()
        except OSError as error:
            raise ConfigurationError(
                f"development root: cannot read {path}: {error.strerror}", code="development_root.load"
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(
                f"development root: {path} holds a damaged certificate or key", code="development_root.damaged"
            ) from error
        if not paired or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(
                f"development root: key and certificate in {path} do not belong together",
                code="development_root.mismatch",
            )
        return cls(certificate=certificate, key=key)

    def issue_chain(self, *, module_id: str, now: datetime) -> Chain:
        """Issue region, zone, instance and leaf as AWS does, from `now` (aware) for three hours."""
        instance, _, _ = module_id.partition("-enc")
        suffix = "development.nitro-enclaves"
        top = _Authority(certificate=self.certificate, key=self.key)
        region = top.issue_authority(f"region.{suffix}", path_length=2, now=now, lifetime=timedelta(days=20))
        zone = region.issue_authority(f"zonal.region.{suffix}", path_length=1, now=now, lifetime=timedelta(days=6))
        host = zone.issue_authority(f"{instance}.region.{suffix}", path_length=0, now=now, lifetime=timedelta(days=1))
        key = _new_key()
        leaf = host.issue_leaf(f"{module_id}.region.development", key, now=now)
        return Chain(
            key=key,
            certificate=leaf.public_bytes(Encoding.DER),
            cabundle=tuple(item.certificate.public_bytes(Encoding.DER) for item in (top, region, zone, host)),
            not_after=leaf.not_valid_after_utc,
        )
