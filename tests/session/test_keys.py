from __future__ import annotations

import dataclasses
import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.session.keys import derive_keys

SECRET, TRANSCRIPT = b"s" * 32, b"t" * 32


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 from its formulas."""
    pseudorandom = hmac.digest(salt, secret, hashlib.sha256)
    block, output = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes((counter,)), hashlib.sha256)
        output += block
    return output[:length]


@given(secret=st.binary(min_size=32, max_size=32), transcript=st.binary(min_size=32, max_size=32))
def test_keys_are_hkdf_sha256_salted_with_the_transcript(secret: bytes, transcript: bytes) -> None:
    keys = derive_keys(secret, transcript=transcript)
    parts = keys.client_to_enclave + keys.enclave_to_client + keys.confirmation + keys.session_id
    assert parts == hkdf(secret, transcript, b"ephemeralml session v1 keys", 112)


def test_every_key_has_one_purpose() -> None:
    keys = derive_keys(SECRET, transcript=TRANSCRIPT)
    values = [getattr(keys, item.name) for item in dataclasses.fields(keys)]
    assert len({value[:16] for value in values}) == len(values)
    assert len(keys.client_to_enclave) == len(keys.enclave_to_client) == len(keys.confirmation) == 32


def test_secret_and_transcript_both_matter() -> None:
    keys = derive_keys(SECRET, transcript=TRANSCRIPT)
    assert derive_keys(SECRET, transcript=TRANSCRIPT) == keys
    for other in (derive_keys(b"S" * 32, transcript=TRANSCRIPT), derive_keys(SECRET, transcript=b"T" * 32)):
        assert all(getattr(other, item.name) != getattr(keys, item.name) for item in dataclasses.fields(keys))


def test_keys_do_not_print() -> None:
    keys = derive_keys(SECRET, transcript=TRANSCRIPT)
    assert "client_to_enclave" not in repr(keys)
    assert repr(keys.enclave_to_client) not in repr(keys)
