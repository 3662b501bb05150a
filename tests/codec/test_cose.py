from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeralml.codec import cbor, cose
from ephemeralml.errors import CodecError

LIMIT = 1 << 16
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
SEED = bytes(range(32))
ED25519 = Ed25519PrivateKey.from_private_bytes(SEED)
ED25519_PUBLIC = ED25519.public_key().public_bytes_raw()
P384 = ec.generate_private_key(ec.SECP384R1())

# Written out by hand from RFC 9052 sections 4.2 and 4.4, for protected {1: -8} and the payload "hello".
EDDSA_MESSAGE = b"\x84\x6aSignature1\x43\xa1\x01\x27\x40\x45hello"
EDDSA_SIGNED = b"\xd2\x84\x43\xa1\x01\x27\xa0\x45hello\x58\x40" + ED25519.sign(EDDSA_MESSAGE)
ES384_MESSAGE = b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40\x45hello"


def es384_signed(unprotected: bytes = b"\xa0") -> bytes:
    r, s = decode_dss_signature(P384.sign(ES384_MESSAGE, ec.ECDSA(hashes.SHA384())))
    return b"\x84\x44\xa1\x01\x38\x22" + unprotected + b"\x45hello\x58\x60" + r.to_bytes(48) + s.to_bytes(48)


def refused(data: bytes, *, tagged: bool = False, limit: int = LIMIT) -> str:
    with pytest.raises(CodecError) as caught:
        cose.parse(data, tagged=tagged, limit=limit)
    return caught.value.code


def test_ed25519_vector() -> None:
    assert cose.sign(b"hello", ED25519, protected={cose.ALG: cose.EDDSA}, tagged=True) == EDDSA_SIGNED
    message = cose.parse(EDDSA_SIGNED, tagged=True, limit=LIMIT)
    assert message == cose.Sign1(b"\xa1\x01\x27", {}, b"hello", EDDSA_SIGNED[-64:])
    assert message.to_be_signed() == EDDSA_MESSAGE
    assert cose.verify_ed25519(message, ED25519_PUBLIC)


def test_es384_vector() -> None:
    message = cose.parse(es384_signed(), tagged=False, limit=LIMIT)
    assert message.to_be_signed() == ES384_MESSAGE
    assert cose.verify_es384(message, P384.public_key())


@given(st.binary(max_size=300), st.booleans())
def test_round_trip(payload: bytes, tagged: bool) -> None:
    for key, protected in ((ED25519, {cose.ALG: cose.EDDSA}), (P384, {cose.ALG: cose.ES384})):
        signed = cose.sign(payload, key, protected=protected, tagged=tagged)
        message = cose.parse(signed, tagged=tagged, limit=LIMIT)
        assert message.payload == payload
        assert message.protected == cbor.encode(protected)
        assert refused(signed, tagged=not tagged) == "cose.tag"
        assert cose.verify_ed25519(message, ED25519_PUBLIC) == (key is ED25519)
        assert cose.verify_es384(message, P384.public_key()) == (key is P384)


def test_the_signature_covers_protected_header_and_payload_as_they_are() -> None:
    for signed, tagged in ((EDDSA_SIGNED, True), (es384_signed(), False)):
        good = cose.parse(signed, tagged=tagged, limit=LIMIT)
        for message in (
            cose.Sign1(good.protected + b"\x00", {}, good.payload, good.signature),
            cose.Sign1(b"", {}, good.payload, good.signature),
            cose.Sign1(good.protected, {}, good.payload + b"!", good.signature),
            cose.Sign1(good.protected, {}, good.payload, good.signature[:-1]),
            cose.Sign1(good.protected, {}, good.payload, good.signature + b"\x00"),
            cose.Sign1(good.protected, {}, good.payload, b""),
            cose.Sign1(good.protected, {}, good.payload, bytes(len(good.signature))),
            cose.Sign1(good.protected, {}, good.payload, b"\xff" * len(good.signature)),
        ):
            assert not cose.verify_ed25519(message, ED25519_PUBLIC)
            assert not cose.verify_es384(message, P384.public_key())


def test_a_non_minimal_protected_header_is_verified_as_it_stands() -> None:
    header = b"\xa1\x18\x01\x27"
    signature = ED25519.sign(b"\x84\x6aSignature1\x44" + header + b"\x40\x45hello")
    raw = b"\x84\x44" + header + b"\xa0\x45hello\x58\x40" + signature
    assert cose.verify_ed25519(cose.parse(raw, tagged=False, limit=LIMIT), ED25519_PUBLIC)


def test_foreign_envelope_keeps_the_raw_payload() -> None:
    payload = bytes.fromhex("bf6161187fff")  # indefinite, as AWS writes it: must not be re-encoded
    signed = cose.sign(payload, P384, protected={cose.ALG: cose.ES384}, tagged=False)
    indefinite = b"\x9f" + signed[1:] + b"\xff"
    message = cose.parse(indefinite, tagged=False, limit=LIMIT)
    assert message.payload == payload
    assert cose.verify_es384(message, P384.public_key())


def test_es384_takes_both_forms_of_s() -> None:
    message = cose.parse(es384_signed(), tagged=False, limit=LIMIT)
    r, s = message.signature[:48], int.from_bytes(message.signature[48:])
    for other, good in ((P384_ORDER - s, True), (s ^ 1, False), (0, False), (P384_ORDER, False)):
        changed = cose.Sign1(message.protected, {}, message.payload, r + other.to_bytes(48))
        assert cose.verify_es384(changed, P384.public_key()) is good


def test_es384_refuses_der_and_other_curves() -> None:
    der = P384.sign(ES384_MESSAGE, ec.ECDSA(hashes.SHA384()))
    assert not cose.verify_es384(cose.Sign1(b"\xa1\x01\x38\x22", {}, b"hello", der), P384.public_key())
    p256 = ec.generate_private_key(ec.SECP256R1())
    r, s = decode_dss_signature(p256.sign(ES384_MESSAGE, ec.ECDSA(hashes.SHA384())))
    padded = r.to_bytes(48) + s.to_bytes(48)
    assert not cose.verify_es384(cose.Sign1(b"\xa1\x01\x38\x22", {}, b"hello", padded), p256.public_key())


def test_other_keys_do_not_verify() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert not cose.verify_ed25519(cose.parse(EDDSA_SIGNED, tagged=True, limit=LIMIT), other)
    message = cose.parse(es384_signed(), tagged=False, limit=LIMIT)
    assert not cose.verify_es384(message, ec.generate_private_key(ec.SECP384R1()).public_key())


def test_unprotected_headers_are_handed_over() -> None:
    message = cose.parse(es384_signed(b"\xa1\x04\x41\x31"), tagged=False, limit=LIMIT)
    assert message.unprotected == {4: b"1"}


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        [b"", {}, b""],
        [b"", {}, b"", b"", b""],
        ["", {}, b"", b""],
        [{}, {}, b"", b""],
        [b"", [], b"", b""],
        [b"", None, b"", b""],
        [b"", {}, None, b""],
        [b"", {}, "", b""],
        [b"", {}, b"", ""],
        [b"", {}, b"", [b""]],
    ],
)
def test_structure(value: object) -> None:
    assert refused(cbor.encode(value)) == "cose.structure"
    assert refused(b"\xd2" + cbor.encode(value), tagged=True) == "cose.structure"


def test_size_tag_and_trailing_bytes() -> None:
    assert refused(EDDSA_SIGNED, tagged=True, limit=len(EDDSA_SIGNED) - 1) == "cose.size"
    assert refused(EDDSA_SIGNED + b"\x00", tagged=True) == "cbor.trailing"
    assert refused(b"\xd2" + EDDSA_SIGNED, tagged=True) == "cbor.tag"
    assert refused(b"\xd8\x12" + EDDSA_SIGNED[1:], tagged=True) == "cose.tag"
    assert refused(b"\xd1" + EDDSA_SIGNED[1:]) == "cbor.tag"
    assert refused(b"", tagged=True) == "cose.tag"
    assert refused(b"") == "cbor.malformed"


@given(st.binary(max_size=120), st.booleans())
@example(b"\xd2", True)
def test_any_bytes_give_a_message_or_a_codec_error(data: bytes, tagged: bool) -> None:
    with contextlib.suppress(CodecError):
        cose.parse(data, tagged=tagged, limit=100)


@given(st.data())
def test_no_bit_flip_verifies(data: st.DataObject) -> None:
    broken = bytearray(EDDSA_SIGNED)
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        message = cose.parse(bytes(broken), tagged=True, limit=LIMIT)
    except CodecError:
        return
    assert not cose.verify_ed25519(message, ED25519_PUBLIC)


@pytest.mark.parametrize(
    ("curve", "algorithm", "size"),
    [(ec.SECP256R1(), cose.ES256, 64), (ec.SECP384R1(), cose.ES384, 96), (ec.SECP521R1(), cose.ES512, 132)],
    ids=("P-256", "P-384", "P-521"),
)
def test_each_curve_has_its_algorithm(curve: ec.EllipticCurve, algorithm: int, size: int) -> None:
    key, other = ec.generate_private_key(curve), ec.generate_private_key(curve)
    assert cose.ecdsa_algorithm(key.public_key()) == algorithm
    signed = cose.sign(b"hello", key, protected={cose.ALG: algorithm}, tagged=False)
    message = cose.parse(signed, tagged=False, limit=LIMIT)
    assert len(message.signature) == size
    assert cose.verify_ecdsa(message, key.public_key())
    assert cose.verify_es384(message, key.public_key()) == (algorithm == cose.ES384)
    assert not cose.verify_ecdsa(message, other.public_key())
    for signature in (b"", message.signature[:-1], message.signature + b"\0", bytes(size), b"\xff" * size):
        assert not cose.verify_ecdsa(cose.Sign1(message.protected, {}, b"hello", signature), key.public_key())
    assert not cose.verify_ecdsa(cose.Sign1(message.protected, {}, b"hullo", message.signature), key.public_key())


def test_other_curves_have_no_algorithm() -> None:
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    assert cose.ecdsa_algorithm(key) is None
    assert not cose.verify_ecdsa(cose.Sign1(b"\xa1\x01\x26", {}, b"hello", bytes(64)), key)
