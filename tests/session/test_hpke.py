from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ephemeralml.errors import SessionError
from ephemeralml.session.hpke import ENC_BYTES, PUBLIC_KEY_BYTES, HpkeKey, seal

KEY = HpkeKey()
SEALED = seal(b"s" * 32, KEY.public_bytes, info=b"info")


def test_sizes() -> None:
    assert len(KEY.public_bytes) == PUBLIC_KEY_BYTES == 1216
    # ML-KEM-768 ciphertext and an X25519 key, then the AEAD's tag.
    assert ENC_BYTES == 1088 + 32
    assert len(SEALED) == ENC_BYTES + 32 + 16


@settings(max_examples=20)
@given(plaintext=st.binary(max_size=100), info=st.binary(max_size=64))
def test_round_trip(plaintext: bytes, info: bytes) -> None:
    assert KEY.open(seal(plaintext, KEY.public_bytes, info=info), info=info) == plaintext


def test_sealing_is_randomised() -> None:
    assert seal(b"s" * 32, KEY.public_bytes, info=b"info") != SEALED


def refused(sealed: bytes, *, key: HpkeKey = KEY, info: bytes = b"info") -> None:
    with pytest.raises(SessionError) as caught:
        key.open(sealed, info=info)
    assert caught.value.code == "open.hpke"


def test_another_key_or_info_does_not_open() -> None:
    refused(SEALED, key=HpkeKey())
    refused(SEALED, info=b"other")
    refused(SEALED, info=b"")


@given(position=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(position: int, bit: int) -> None:
    changed = bytearray(SEALED)
    changed[position] ^= 1 << bit
    # The top bit of an X25519 key is ignored by RFC 7748, but HPKE's KEM hashes the key as it was sent.
    refused(bytes(changed))


@given(st.one_of(st.binary(max_size=1300), st.integers(0, len(SEALED) - 1).map(lambda cut: SEALED[:cut])))
def test_any_bytes_are_refused(sealed: bytes) -> None:
    refused(sealed)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        KEY.public_bytes[:-1],
        KEY.public_bytes + b"\0",
        # Coefficients above the modulus (FIPS 203 section 7.2) and a point of small order (RFC 7748 section 6.1).
        b"\xff" * 1184 + KEY.public_bytes[1184:],
        KEY.public_bytes[:1184] + bytes(32),
    ],
    ids=["empty", "short", "long", "ML-KEM modulus", "X25519 small order"],
)
def test_malformed_public_keys_are_refused(key: bytes) -> None:
    with pytest.raises(SessionError) as caught:
        seal(b"s" * 32, key, info=b"")
    assert caught.value.code == "evidence.hpke_key"
