"""The small-order points are derived here from the curve equation, apart from the list under test."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.codec import ed25519
from ephemeralml.codec.ed25519 import verify_strict

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
IDENTITY = (0, 1)

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def multiply(scalar: int, point: Point) -> Point:
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def recover(y: int) -> Point | None:
    """A point with this y (RFC 8032 section 5.1.3), or None when there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else (x, y % P)


def torsion() -> set[Point]:
    """The eight points of small order: multiples by the prime order of a point that has an order-8 component."""
    for y in range(2, 1000):
        point = recover(y)
        generator = multiply(L, point) if point else IDENTITY
        if multiply(4, generator) != IDENTITY:
            return {multiply(scalar, generator) for scalar in range(8)}
    raise AssertionError


TORSION = torsion()
# Every 32-byte string that decodes to one of them: any y < 2^255 of that residue, either sign bit.
ENCODINGS = sorted(
    (y | sign << 255).to_bytes(32, "little")
    for residue in {y for _, y in TORSION}
    for y in (residue, residue + P)
    if y < 2**255
    for sign in (0, 1)
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


def test_there_are_eight_points_of_small_order() -> None:
    assert len(TORSION) == 8
    assert all(multiply(8, point) == IDENTITY for point in TORSION)
    assert all((-x * x + y * y - 1 - D * x * x * y * y) % P == 0 for x, y in TORSION)
    assert len(ENCODINGS) == 14


def test_the_list_is_exactly_their_encodings() -> None:
    assert {y.to_bytes(32, "little") for y in ed25519._SMALL_ORDER} == {e for e in ENCODINGS if e[31] < 128}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=bytes.hex)
def test_small_order_keys_and_commitments_are_refused(encoding: bytes) -> None:
    # With A of order dividing 8, S = 0 and R = -hA the equation holds for every message where 8 divides h.
    for message in (b"", b"hello", bytes(100)):
        for commitment in ENCODINGS:
            assert not verify_strict(encoding, commitment + bytes(32), message)
        assert not verify_strict(encoding, KEY.sign(message), message)
        assert not verify_strict(PUBLIC, encoding + KEY.sign(message)[32:], message)


def test_a_commitment_of_small_order_that_satisfies_the_equation_is_refused() -> None:
    # r = 0: R is the identity and S = h·a satisfies S·B = R + h·A, for the key's own holder.
    digest = bytearray(hashlib.sha512(bytes(range(32))).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    scalar = int.from_bytes(digest, "little")
    commitment = (1).to_bytes(32, "little")
    h = int.from_bytes(hashlib.sha512(commitment + PUBLIC + b"hello").digest(), "little") % L
    signature = commitment + (h * scalar % L).to_bytes(32, "little")
    KEY.public_key().verify(signature, b"hello")
    assert not verify_strict(PUBLIC, signature, b"hello")


@given(st.binary(max_size=200))
def test_round_trip(message: bytes) -> None:
    assert verify_strict(PUBLIC, KEY.sign(message), message)
    assert not verify_strict(PUBLIC, KEY.sign(message), message + b"\x00")


def test_rfc_8032_vector_2() -> None:
    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert verify_strict(key, signature, b"\x72")


def test_s_is_below_the_group_order() -> None:
    signature = KEY.sign(b"hello")
    raised = int.from_bytes(signature[32:], "little") + L
    assert not verify_strict(PUBLIC, signature[:32] + raised.to_bytes(32, "little"), b"hello")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_size(size: int) -> None:
    assert not verify_strict((PUBLIC * 3)[:size], KEY.sign(b""), b"")


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_signature_size(size: int) -> None:
    assert not verify_strict(PUBLIC, (KEY.sign(b"") * 3)[:size], b"")


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_any_key_and_signature_are_answered(key: bytes, signature: bytes) -> None:
    assert not verify_strict(key, signature, b"hello")


@given(st.data())
def test_bit_flips(data: st.DataObject) -> None:
    signature = bytearray(KEY.sign(b"hello"))
    signature[data.draw(st.integers(0, 63))] ^= 1 << data.draw(st.integers(0, 7))
    assert not verify_strict(PUBLIC, bytes(signature), b"hello")
