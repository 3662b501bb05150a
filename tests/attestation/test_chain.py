from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from ephemeralml.attestation import AWS_NITRO_ROOT_G1_SHA256, Policy, verify_document
from ephemeralml.devcloud.root import Chain, DevelopmentRoot
from ephemeralml.errors import AttestationError

Forge = Callable[..., bytes]
_KEY = ec.generate_private_key(ec.SECP384R1())
_USAGE = (
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


def _usage(*granted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in granted for name in _USAGE})


_LEAF = (x509.BasicConstraints(ca=False, path_length=None), _usage("digital_signature"))
_NOT_CRITICAL = (x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier)
_CA_USAGE = _usage("digital_signature", "key_cert_sign")


class _Issuer:
    """Certificates with any extensions and key, under the development root or under each other."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
        self.certificate, self.key, self.now = certificate, key, now

    def issue(
        self,
        *extensions: x509.ExtensionType,
        key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey = _KEY,
        name: str = "leaf",
        since: timedelta = timedelta(hours=-1),
        until: timedelta = timedelta(hours=1),
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + since)
            .not_valid_after(self.now + until)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=not isinstance(extension, _NOT_CRITICAL))
        return builder.sign(self.key, hashes.SHA384())

    def authority(self, name: str, path_length: int | None, usage: x509.KeyUsage = _CA_USAGE) -> _Issuer:
        key = ec.generate_private_key(ec.SECP384R1())
        certificate = self.issue(
            x509.BasicConstraints(ca=True, path_length=path_length),
            usage,
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            key=key,
            name=name,
        )
        return _Issuer(certificate, key, self.now)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def top(root: DevelopmentRoot, now: datetime) -> _Issuer:
    return _Issuer(root.certificate, root.key, now)


def _code(raw: bytes, policy: Policy, at: datetime) -> str:
    with pytest.raises(AttestationError) as caught:
        verify_document(raw, policy=policy, at=at)
    assert caught.value.step == caught.value.code.split(".", maxsplit=1)[0]
    return caught.value.code


def test_the_pin_is_the_published_fingerprint() -> None:
    assert AWS_NITRO_ROOT_G1_SHA256.hex() == "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"


def test_a_leaf_straight_under_the_root_verifies(forge: Forge, policy: Policy, top: _Issuer, now: datetime) -> None:
    leaf = _der(top.issue(*_LEAF))
    assert verify_document(
        forge(_key=_KEY, certificate=leaf, cabundle=[_der(top.certificate)]), policy=policy, at=now
    ).ok


def test_an_altered_document_fails_its_signature(forge: Forge, policy: Policy, now: datetime) -> None:
    assert _code(forge(_key=_KEY), policy, now) == "signature.invalid"
    assert _code(forge().replace(b"n" * 32, b"m" * 32), policy, now) == "signature.invalid"


def test_an_unreadable_certificate_or_another_key_type_fails_the_signature(
    forge: Forge, policy: Policy, top: _Issuer, now: datetime
) -> None:
    assert _code(forge(certificate=b"\x30\x00"), policy, now) == "signature.certificate"
    p256 = _der(top.issue(*_LEAF, key=ec.generate_private_key(ec.SECP256R1())))
    assert _code(forge(certificate=p256), policy, now) == "signature.key"
    edwards = _der(top.issue(*_LEAF, key=ed25519.Ed25519PrivateKey.generate()))
    assert _code(forge(certificate=edwards), policy, now) == "signature.key"


def test_only_a_named_root_is_trusted(
    forge: Forge, measurements: object, root: DevelopmentRoot, chain: Chain, now: datetime
) -> None:
    assert _code(forge(), Policy.insecure_any_measurement(), now) == "chain.untrusted_root"
    other = Policy.insecure_any_measurement(extra_roots=[DevelopmentRoot.create().der])
    assert _code(forge(), other, now) == "chain.untrusted_root"
    several = Policy.insecure_any_measurement(extra_roots=[DevelopmentRoot.create().der, root.certificate])
    assert verify_document(forge(), policy=several, at=now).platform == "local"
    # The root must be the bundle's first, wherever else it appears.
    shuffled = [*chain.cabundle[1:], chain.cabundle[0]]
    assert _code(forge(cabundle=shuffled), several, now) == "chain.untrusted_root"


def test_the_time_is_the_callers(forge: Forge, policy: Policy, now: datetime) -> None:
    assert verify_document(forge(), policy=policy, at=now + timedelta(hours=2, minutes=59)).ok
    assert _code(forge(), policy, now + timedelta(hours=4)) == "chain.expired"
    assert _code(forge(), policy, now - timedelta(minutes=1)) == "chain.not_yet_valid"
    assert _code(forge(), policy, datetime.max.replace(tzinfo=now.tzinfo)) == "chain.expired"
    assert _code(forge(), policy, datetime.min.replace(tzinfo=now.tzinfo)) == "chain.not_yet_valid"


def test_a_missing_or_foreign_intermediate_breaks_the_chain(
    forge: Forge, policy: Policy, root: DevelopmentRoot, chain: Chain, now: datetime
) -> None:
    foreign = root.issue_chain(module_id="i-1-enc1", now=now).cabundle
    for index in (1, 2, 3):
        missing = [*chain.cabundle[:index], *chain.cabundle[index + 1 :]]
        assert _code(forge(cabundle=missing), policy, now) == "chain.invalid"
        swapped = [*chain.cabundle[:index], foreign[index], *chain.cabundle[index + 1 :]]
        assert _code(forge(cabundle=swapped), policy, now) == "chain.invalid"
    assert _code(forge(cabundle=[root.der, b"\x30\x00"]), policy, now) == "chain.certificate"


def test_a_chain_signed_by_a_lookalike_root_is_refused(
    forge: Forge, policy: Policy, root: DevelopmentRoot, now: datetime
) -> None:
    fake = DevelopmentRoot.create().issue_chain(module_id="i-0-enc0", now=now)
    raw = forge(_key=fake.key, certificate=fake.certificate, cabundle=[root.der, *fake.cabundle[1:]])
    assert _code(raw, policy, now) == "chain.invalid"


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        ((), "chain.leaf_extensions"),
        (_LEAF[:1], "chain.leaf_extensions"),
        (_LEAF[1:], "chain.leaf_extensions"),
        ((x509.BasicConstraints(ca=True, path_length=0), _CA_USAGE), "chain.leaf_is_ca"),
        ((_LEAF[0], _usage("content_commitment")), "chain.leaf_usage"),
    ],
)
def test_the_leaf_must_be_an_end_entity_that_may_sign(
    forge: Forge, policy: Policy, top: _Issuer, extensions: tuple[x509.ExtensionType, ...], code: str
) -> None:
    leaf = _der(top.issue(*extensions))
    assert _code(forge(_key=_KEY, certificate=leaf, cabundle=[_der(top.certificate)]), policy, top.now) == code


def _under(forge: Forge, *authorities: _Issuer) -> bytes:
    leaf = _der(authorities[-1].issue(*_LEAF))
    return forge(_key=_KEY, certificate=leaf, cabundle=[_der(item.certificate) for item in authorities])


def test_path_lengths_are_respected(forge: Forge, policy: Policy, top: _Issuer, now: datetime) -> None:
    allowed = top.authority("a", 1)
    assert verify_document(_under(forge, top, allowed, allowed.authority("b", 0)), policy=policy, at=now).ok
    last = top.authority("a", 0)
    assert _code(_under(forge, top, last, last.authority("b", 0)), policy, now) == "chain.invalid"


def test_an_issuer_that_may_not_sign_certificates_breaks_the_chain(
    forge: Forge, policy: Policy, top: _Issuer, now: datetime
) -> None:
    powerless = top.authority("a", 0, usage=_usage("digital_signature"))
    assert _code(_under(forge, top, powerless), policy, now) == "chain.invalid"
    leaf = _Issuer(top.issue(*_LEAF), _KEY, now)
    assert _code(_under(forge, top, leaf), policy, now) == "chain.invalid"


def test_every_certificate_of_the_bundle_must_be_valid_at_that_time(
    forge: Forge, policy: Policy, top: _Issuer, root: DevelopmentRoot, now: datetime
) -> None:
    leaf = _der(top.issue(*_LEAF))
    stale = _der(top.issue(*_LEAF, name="unused", since=timedelta(hours=-2), until=timedelta(hours=-1)))
    raw = forge(_key=_KEY, certificate=leaf, cabundle=[root.der, stale])
    assert _code(raw, policy, now) == "chain.expired"


def test_extensions_that_only_fail_when_read_are_refused(
    forge: Forge, policy: Policy, top: _Issuer, now: datetime
) -> None:
    # keyUsage as an empty SEQUENCE instead of a BIT STRING: the certificate loads, its extensions do not.
    broken = x509.UnrecognizedExtension(ExtensionOID.KEY_USAGE, b"\x30\x00")
    leaf = _der(top.issue(_LEAF[0], broken))
    raw = forge(_key=_KEY, certificate=leaf, cabundle=[_der(top.certificate)])
    assert _code(raw, policy, now) == "chain.certificate"
