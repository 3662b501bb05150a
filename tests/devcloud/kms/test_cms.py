"""The writer's envelopes have AWS's shape, tag by tag, and open with the enclave's reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ephemeralml.devcloud.kms.cms import envelope
from ephemeralml.enclave.key_release import open_envelope

Shape = list[tuple[int, int, int | None]]


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def shape(raw: bytes) -> Shape:
    """(depth, identifier octet, length or None for indefinite) of every element, end-of-contents included."""
    elements: Shape = []

    def read(position: int, end: int, depth: int, *, until_end_of_contents: bool = False) -> int:
        while position < end:
            tag, first = raw[position], raw[position + 1]
            position += 2
            length: int | None = first
            if first > 0x80:
                width = first & 0x7F
                length = int.from_bytes(raw[position : position + width])
                position += width
            elif first == 0x80:
                length = None
            elements.append((depth, tag, length))
            if (tag, first) == (0, 0) and until_end_of_contents:
                return position
            if length is None:
                position = read(position, end, depth + 1, until_end_of_contents=True)
            elif tag & 0x20:
                position = read(position, position + length, depth + 1)
            else:
                position += length
        return position

    assert read(0, len(raw), 0) == len(raw)
    return elements


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("edgebit_enclaver_hello.ber", 12),
        ("rustcrypto_kms_1.ber", 15),
        ("aws_sdk_c.ber", 32),
        ("rustcrypto_kms_2.ber", 32),
        ("rustcrypto_kms_4.ber", 4096),
    ],
)
def test_same_tags_and_lengths_as_aws(vectors: Path, private_key: rsa.RSAPrivateKey, name: str, size: int) -> None:
    recorded = (vectors / "cms" / name).read_bytes()
    ours = envelope(os.urandom(size), private_key.public_key())
    assert shape(ours) == shape(recorded)
    # Up to the key identifier, and from there to the encrypted key, the two differ in no byte.
    assert ours[:33] == recorded[:33]
    assert ours[65:131] == recorded[65:131]
    assert ours[387:415] == recorded[387:415]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 32, 983, 984, 999, 1000, 4096])
def test_round_trip(private_key: rsa.RSAPrivateKey, size: int) -> None:
    plaintext = os.urandom(size)
    assert open_envelope(envelope(plaintext, private_key.public_key()), private_key) == plaintext


def test_round_trip_with_a_larger_key() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    assert open_envelope(envelope(b"x" * 32, key.public_key()), key) == b"x" * 32


def test_two_envelopes_share_nothing_secret(private_key: rsa.RSAPrivateKey) -> None:
    first, second = (envelope(b"same", private_key.public_key()) for _ in range(2))
    assert first[131:387] != second[131:387]
    assert first[415:431] != second[415:431]
