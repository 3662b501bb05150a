from __future__ import annotations

import itertools
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import ConfigurationError

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def root() -> DevelopmentRoot:
    return DevelopmentRoot.create()


def _read(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _shape(certificate: x509.Certificate) -> tuple[bool, int | None, set[str]]:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    kinds = {type(extension.value).__name__ for extension in certificate.extensions}
    return constraints.value.ca, constraints.value.path_length, kinds - {"BasicConstraints", "KeyUsage"}


def test_the_chain_has_the_shape_of_awss(root: DevelopmentRoot) -> None:
    chain = root.issue_chain(module_id="i-00000000000000000-enc0123456789abcdef", now=NOW)
    certificates = [_read(der) for der in (*chain.cabundle, chain.certificate)]
    identifiers = {"AuthorityKeyIdentifier", "SubjectKeyIdentifier"}
    assert [_shape(certificate) for certificate in certificates] == [
        (True, None, {"SubjectKeyIdentifier"}),
        (True, 2, identifiers),
        (True, 1, identifiers),
        (True, 0, identifiers),
        (False, None, set()),
    ]
    for issuer, certificate in itertools.pairwise(certificates):
        certificate.verify_directly_issued_by(issuer)
    assert chain.cabundle[0] == root.der
    assert certificates[4].public_key() == chain.key.public_key()
    assert all(len(der) <= 1024 for der in chain.cabundle)


def test_the_leaf_lives_three_hours(root: DevelopmentRoot) -> None:
    chain = root.issue_chain(module_id="i-0-enc0", now=NOW)
    leaf = _read(chain.certificate)
    assert leaf.not_valid_after_utc == chain.not_after == NOW + timedelta(hours=3)
    assert leaf.not_valid_before_utc == NOW - timedelta(seconds=3)


def test_saved_and_loaded_again(root: DevelopmentRoot, tmp_path: Path) -> None:
    root.save(tmp_path / "made" / "here")
    again = DevelopmentRoot.load(tmp_path / "made" / "here")
    assert again.der == root.der
    assert again.key.private_numbers() == root.key.private_numbers()
    assert stat.S_IMODE((tmp_path / "made" / "here" / "root.key").stat().st_mode) == 0o600


def test_no_representation_shows_the_key(root: DevelopmentRoot) -> None:
    assert "PrivateKey" not in repr(root) + repr(root.issue_chain(module_id="i-0-enc0", now=NOW))


def test_a_root_is_never_overwritten(root: DevelopmentRoot, tmp_path: Path) -> None:
    root.save(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        DevelopmentRoot.create().save(tmp_path)
    assert caught.value.code == "development_root.save"
    assert DevelopmentRoot.load(tmp_path).der == root.der


def test_what_cannot_be_loaded_is_a_configuration_error(root: DevelopmentRoot, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DevelopmentRoot.load(tmp_path)
    assert caught.value.code == "development_root.load"
    root.save(tmp_path)
    (tmp_path / "root.der").write_bytes(DevelopmentRoot.create().der)
    with pytest.raises(ConfigurationError) as caught:
        DevelopmentRoot.load(tmp_path)
    assert caught.value.code == "development_root.mismatch"
    (tmp_path / "root.der").write_bytes(b"nothing")
    with pytest.raises(ConfigurationError) as caught:
        DevelopmentRoot.load(tmp_path)
    assert caught.value.code == "development_root.damaged"


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edwards")])
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1)).sign(key, None)
    (tmp_path / "root.der").write_bytes(certificate.public_bytes(Encoding.DER))
    (tmp_path / "root.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigurationError) as caught:
        DevelopmentRoot.load(tmp_path)
    assert caught.value.code == "development_root.mismatch"
