"""Certificate chains of every odd shape: what `cryptography` makes of them, the page makes of them too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from browser import Inspector, python_outcome
from bundles import MADE, World
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    ExtensionOID,
    NameOID,
    ObjectIdentifier,
)

from ephemeralml.attestation import Policy
from ephemeralml.codec import cbor, cose
from ephemeralml.receipts import Bundle

KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("root", "a", "b", "leaf", "other")}
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
Extension = tuple[x509.ExtensionType, bool]


def usage(*granted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in granted for name in USAGES})


def raw(oid: ObjectIdentifier, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, value)


def key_identifier(name: str) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(KEYS[name].public_key())


def called(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


BASIC = {depth: (x509.BasicConstraints(ca=True, path_length=depth), True) for depth in (None, 0, 1)}
SIGNS: Extension = (usage("key_cert_sign"), True)
LEAF: tuple[Extension, ...] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage("digital_signature"), True),
)


def issue(
    subject: str,
    issuer: str,
    *extensions: Extension,
    key: Any = None,
    signer: Any = None,
    names: tuple[x509.Name, x509.Name] | None = None,
    serial: int = 7,
    hash_: hashes.SHA256 | hashes.SHA384 | hashes.SHA3_384 = hashes.SHA384(),  # noqa: B008
    hours: tuple[float, float] = (-1, 1),
) -> bytes:
    """A certificate for KEYS[subject] by KEYS[issuer], DER."""
    subject_name, issuer_name = names or (called(subject), called(issuer))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(issuer_name)
        .public_key((key or KEYS[subject]).public_key())
        .serial_number(serial)
        .not_valid_before(MADE + timedelta(hours=hours[0]))
        .not_valid_after(MADE + timedelta(hours=hours[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer or KEYS[issuer], hash_).public_bytes(Encoding.DER)


ROOT = issue("root", "root", BASIC[None], SIGNS)
A = issue("a", "root", BASIC[1], SIGNS)
B = issue("b", "a", BASIC[0], SIGNS)


def authorities() -> Iterator[tuple[str, bytes]]:
    """One authority between root and leaf, odd in one way each."""
    unknown = ObjectIdentifier("1.2.3.4")
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    for name, extensions in {
        "plain": (BASIC[0], SIGNS),
        "no constraints": (SIGNS,),
        "constraints not critical": ((BASIC[0][0], False), SIGNS),
        "no usage": (BASIC[0],),
        "usage not critical": (BASIC[0], (SIGNS[0], False)),
        "another usage": (BASIC[0], (usage("digital_signature"), True)),
        "not an authority": LEAF,
        "authority key": (BASIC[0], SIGNS, (x509.AuthorityKeyIdentifier(b"k" * 20, None, None), False)),
        "authority key, critical": (BASIC[0], SIGNS, (x509.AuthorityKeyIdentifier(b"k" * 20, None, None), True)),
        "subject key": (BASIC[0], SIGNS, (key_identifier("a"), False)),
        "subject key, critical": (BASIC[0], SIGNS, (key_identifier("a"), True)),
        "unknown": (BASIC[0], SIGNS, (raw(unknown, b"\5\0"), False)),
        "unknown, critical": (BASIC[0], SIGNS, (raw(unknown, b"\5\0"), True)),
        "extended usage, client": (BASIC[0], SIGNS, (x509.ExtendedKeyUsage([server, client]), False)),
        "extended usage, client, critical": (BASIC[0], SIGNS, (x509.ExtendedKeyUsage([client]), True)),
        "extended usage, server": (BASIC[0], SIGNS, (x509.ExtendedKeyUsage([server]), False)),
        "extended usage, any": (
            BASIC[0],
            SIGNS,
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False),
        ),
        "malformed constraints": ((raw(ExtensionOID.BASIC_CONSTRAINTS, b"\x30\3\1\1\0"), True), SIGNS),
        "malformed usage": (BASIC[0], (raw(ExtensionOID.KEY_USAGE, b"\x30\0"), True)),
    }.items():
        yield name, issue("a", "root", *extensions)
    good: Sequence[Extension] = (BASIC[0], SIGNS)
    yield "another signer", issue("a", "root", *good, signer=KEYS["other"])
    yield "serial of 20 bytes", issue("a", "root", *good, serial=2**159 - 1)
    yield "SHA-3", issue("a", "root", *good, hash_=hashes.SHA3_384())
    yield "after 2050", issue("a", "root", *good, hours=(-1, 24 * 365 * 30))


def unread() -> Iterator[tuple[str, bytes]]:
    """Authorities that `cryptography` accepts and neither AWS nor EphemeralML has: the page does not read them."""
    issuer_named = x509.AuthorityKeyIdentifier(b"k" * 20, [x509.DirectoryName(called("root"))], 7)
    location = x509.UniformResourceIdentifier("http://ocsp.example")
    for name, extension in {
        "issuer named": issuer_named,
        "alternative name": x509.SubjectAlternativeName([x509.DNSName("x.example")]),
        "name constraints": x509.NameConstraints([x509.DNSName("example")], None),
        "information access": x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location)]
        ),
    }.items():
        yield name, issue("a", "root", BASIC[0], SIGNS, (extension, False))
    yield "SHA-256", issue("a", "root", BASIC[0], SIGNS, hash_=hashes.SHA256())


def leaves() -> Iterator[tuple[str, bytes]]:
    """A leaf straight under the root, odd in one way each."""
    unknown = ObjectIdentifier("1.2.3.4")
    for name, extensions in {
        "plain": LEAF,
        "usage missing": LEAF[:1],
        "constraints missing": LEAF[1:],
        "an authority": (BASIC[0], SIGNS),
        "may not sign": (LEAF[0], (usage("content_commitment"), True)),
        "encipher only": (LEAF[0], (usage("digital_signature", "key_agreement", "encipher_only"), True)),
        "encipher only, no agreement": (LEAF[0], (raw(ExtensionOID.KEY_USAGE, b"\3\2\0\x81"), True)),
        "constraints not critical": ((LEAF[0][0], False), (LEAF[1][0], False)),
        "unknown": (*LEAF, (raw(unknown, b"\5\0"), False)),
        "unknown, critical": (*LEAF, (raw(unknown, b"\5\0"), True)),
        "subject key": (*LEAF, (key_identifier("leaf"), False)),
        "authority key": (*LEAF, (x509.AuthorityKeyIdentifier(b"k" * 20, None, None), True)),
        "malformed subject key": (*LEAF, (raw(ExtensionOID.SUBJECT_KEY_IDENTIFIER, b"\x30\0"), False)),
        "malformed names": (*LEAF, (raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\4\0"), False)),
        "empty names": (*LEAF, (raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\0"), False)),
        "path length without authority": ((raw(ExtensionOID.BASIC_CONSTRAINTS, b"\x30\3\2\1\1"), True), LEAF[1]),
        "false written out": ((raw(ExtensionOID.BASIC_CONSTRAINTS, b"\x30\3\1\1\0"), True), LEAF[1]),
    }.items():
        yield name, issue("leaf", "root", *extensions)
    yield "P-256", issue("leaf", "root", *LEAF, key=ec.generate_private_key(ec.SECP256R1()))
    yield "P-521", issue("leaf", "root", *LEAF, key=ec.generate_private_key(ec.SECP521R1()))
    yield "RSA", issue("leaf", "root", *LEAF, key=rsa.generate_private_key(65537, 1024))
    yield "nobody issued it", issue("leaf", "root", *LEAF, names=(called("leaf"), x509.Name([])))
    yield "no name", issue("leaf", "root", *LEAF, names=(x509.Name([]), called("root")))
    yield "issuer of two names", issue("leaf", "root", *LEAF, names=(called("leaf"), called("root", "root")))


@pytest.fixture
def case(world: World) -> Callable[..., tuple[bytes, bytes]]:
    """`case(leaf, root, …)`: a bundle whose document has this chain, and a policy that names its root."""
    good = Bundle.from_bytes(world.bundle())
    payload: Any = cbor.decode_foreign(cose.parse(world.document, tagged=False, limit=1 << 15).payload)
    fields = {**payload, "timestamp": int(MADE.timestamp() * 1000)}

    def make(leaf: bytes, *bundle: bytes) -> tuple[bytes, bytes]:
        body = cbor.encode({**fields, "certificate": leaf, "cabundle": list(bundle)})
        document = cose.sign(body, KEYS["leaf"], protected={cose.ALG: cose.ES384}, tagged=False)
        policy = Policy(measurements=world.policy.measurements, extra_roots=[bundle[0]])
        return dataclasses.replace(good, document=document).to_bytes(), policy.to_json().encode()

    return make


def test_chains_are_judged_alike(inspector: Inspector, case: Callable[..., tuple[bytes, bytes]]) -> None:
    under_a, under_b = issue("leaf", "a", *LEAF), issue("leaf", "b", *LEAF)
    short = issue("a", "root", BASIC[0], SIGNS)
    loop = issue("a", "a", BASIC[None], SIGNS)
    alone = issue("leaf", "leaf", *LEAF)
    cases = {
        "two authorities": case(under_b, ROOT, A, B),
        "in another order": case(under_b, ROOT, B, A),
        "one missing": case(under_b, ROOT, B),
        "one twice": case(under_b, ROOT, A, A, B),
        "path too long": case(under_b, ROOT, short, B),
        "a way round the short path": case(under_b, ROOT, short, A, B),
        "a loop": case(under_a, ROOT, loop),
        "a loop and a way out": case(under_a, ROOT, loop, loop, short),
        "the leaf its own root": case(alone, alone),
        "an unused certificate": case(under_a, ROOT, short, B),
        **{f"authority, {name}": case(under_a, ROOT, authority) for name, authority in authorities()},
        **{f"leaf, {name}": case(leaf, ROOT) for name, leaf in leaves()},
    }
    shown = {name: outcome.shape for name, outcome in zip(cases, inspector.judge(cases.values()), strict=True)}
    assert shown == {name: python_outcome(*data).shape for name, data in cases.items()}
    codes = {name: code for name, (_, code, _) in shown.items()}
    # What gets past the chain is another document than the receipt's.
    assert codes["two authorities"] == codes["a way round the short path"] == "ATTESTATION_DOC_HASH_MISMATCH"
    assert codes["path too long"] == codes["a loop"] == codes["authority, unknown, critical"] == "chain.invalid"


def test_authorities_of_another_kind_are_refused(
    inspector: Inspector, case: Callable[..., tuple[bytes, bytes]]
) -> None:
    leaf = issue("leaf", "a", *LEAF)
    cases = {name: case(leaf, ROOT, authority) for name, authority in unread()}
    shown = dict(zip(cases, inspector.judge(cases.values()), strict=True))
    assert {outcome.code for outcome in shown.values()} == {"chain.invalid"}
    assert {python_outcome(*data).code for data in cases.values()} == {"ATTESTATION_DOC_HASH_MISMATCH"}
