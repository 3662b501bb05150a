"""Receipts: the third-party vectors, the envelope's rules, and any mutation of a good one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.errors import ReceiptError
from ephemeralml.receipts import Claims, EnclaveMeasurements, ReceiptPolicy, issue_receipt, verify_receipt

Load = Callable[[str], dict[str, dict[str, Any]]]
Seal = Callable[..., bytes]
Payload = Mapping[int, Any]


def refused(raw: bytes, public_key: bytes, policy: ReceiptPolicy | None = None) -> tuple[int, str]:
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(raw, public_key=public_key, policy=policy)
    return caught.value.layer, caught.value.code


def from_hex(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The vectors' way to write claims: byte strings as ``…_hex``, absent ones as null."""
    present = {name: value for name, value in fields.items() if value is not None}
    return {
        name.removesuffix("_hex"): bytes.fromhex(value) if name.endswith("_hex") else value
        for name, value in present.items()
    }


def vector_policy(vector: Mapping[str, Any]) -> ReceiptPolicy:
    return ReceiptPolicy(**from_hex(vector.get("verify_policy", {})))


def test_valid_vectors_verify_and_are_rebuilt_byte_for_byte(air_vectors: Load) -> None:
    valid = air_vectors("valid")
    assert len(valid) >= 2
    for vector in valid.values():
        raw = bytes.fromhex(vector["receipt_hex"])
        receipt = verify_receipt(raw, public_key=bytes.fromhex(vector["public_key_hex"]))
        fields = from_hex(vector["claims"])
        assert fields.pop("eat_profile") == "https://spec.cyntrisec.com/air/v1"
        measurements = EnclaveMeasurements(**from_hex(fields.pop("enclave_measurements")))
        claims = Claims(**fields, enclave_measurements=measurements)
        assert receipt.claims == claims
        assert claims.to_payload() == bytes.fromhex(vector["payload_hex"])
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["signing_key_seed_hex"]))
        assert issue_receipt(claims, key) == raw


def test_invalid_vectors_fail_in_their_layer_with_their_code(air_vectors: Load) -> None:
    invalid = air_vectors("invalid")
    original = air_vectors("valid")["v1-nitro-no-nonce"]
    assert len(invalid) >= 8
    for name, vector in invalid.items():
        public_key = bytes.fromhex(vector.get("public_key_hex") or vector["wrong_public_key_hex"])
        raw = bytes.fromhex(vector.get("receipt_hex") or original["receipt_hex"])
        expected = vector["expected_failure"]
        assert (name, *refused(raw, public_key, vector_policy(vector))) == (name, expected["layer"], expected["code"])


def test_a_verified_receipt_says_what_was_checked(claims: Claims, key: Ed25519PrivateKey, public_key: bytes) -> None:
    raw = issue_receipt(claims, key)
    receipt = verify_receipt(raw, public_key=public_key, policy=ReceiptPolicy(expected_nonce=b"n" * 32))
    assert (receipt.raw, receipt.claims) == (raw, claims)
    assert receipt.sha256 == hashlib.sha256(raw).digest()
    assert receipt.checks == ("NONCE",)
    assert receipt.skipped == ("FRESH", "MODEL", "PLATFORM", "REPLAY")
    assert verify_receipt(raw, public_key=key.public_key()).checks == ()


HEADERS = [
    ("a201260318 3d", "BAD_ALG"),
    ("a10318 3d", "BAD_ALG"),
    ("", "BAD_ALG"),
    ("a0", "BAD_ALG"),
    ("a2016545644453410318 3d", "BAD_ALG"),
    ("a10127", "BAD_CONTENT_TYPE"),
    ("a2012703183c", "BAD_CONTENT_TYPE"),
    ("a20127036f6170706c69636174696f6e2f637774", "BAD_CONTENT_TYPE"),
    ("a3012703183d0441 78", "PROTECTED_HEADER_NOT_CLOSED"),
    ("a203183d0127", "NON_DETERMINISTIC_CBOR"),
    ("a2013807 03183d", "NON_DETERMINISTIC_CBOR"),
    ("a2012703183d00", "COSE_DECODE_FAILED"),
    ("a3012701270318 3d", "COSE_DECODE_FAILED"),
    ("83012703", "COSE_DECODE_FAILED"),
    ("820127", "COSE_DECODE_FAILED"),
]


@pytest.mark.parametrize(("protected", "code"), HEADERS)
def test_the_protected_header_has_one_form(
    payload: Payload, seal: Seal, public_key: bytes, protected: str, code: str
) -> None:
    assert refused(seal(payload, protected=bytes.fromhex(protected)), public_key) == (1, code)


@pytest.mark.parametrize("unprotected", [{4: b"kid"}, {1: -8}, {"x": None}])
def test_the_unprotected_header_is_empty(payload: Payload, seal: Seal, public_key: bytes, unprotected: object) -> None:
    assert refused(seal(payload, unprotected=unprotected), public_key) == (1, "NON_EMPTY_UNPROTECTED")


def parts(raw: bytes) -> list[Any]:
    value = cbor.decode(raw[1:])
    assert isinstance(value, list)
    return value


def test_the_envelope_is_a_tagged_cose_sign1_and_nothing_else(
    claims: Claims, key: Ed25519PrivateKey, public_key: bytes
) -> None:
    raw = issue_receipt(claims, key)
    protected, unprotected, payload, signature = parts(raw)
    broken = {
        "untagged": raw[1:],
        "tag 17": b"\xd1" + raw[1:],
        "tag 18 twice": b"\xd2" + raw,
        "tag 18 in two bytes": b"\xd8\x12" + raw[1:],
        "CWT tag around it": b"\xd8\x3d" + raw,
        "empty": b"",
        "the tag alone": b"\xd2",
        "truncated": raw[:-1],
        "trailing byte": raw + b"\x00",
        "twice": raw + raw,
        "array of three": b"\xd2" + cbor.encode([protected, unprotected, payload]),
        "array of five": b"\xd2" + cbor.encode([protected, unprotected, payload, signature, b""]),
        "detached payload": b"\xd2" + cbor.encode([protected, unprotected, None, signature]),
        "payload not wrapped": b"\xd2" + cbor.encode([protected, unprotected, cbor.decode(payload), signature]),
        "signature as text": b"\xd2" + cbor.encode([protected, unprotected, payload, "x" * 64]),
        "unprotected as bytes": b"\xd2" + cbor.encode([protected, b"\xa0", payload, signature]),
        "a map": b"\xd2" + cbor.encode({0: protected, 1: unprotected, 2: payload, 3: signature}),
    }
    outcomes = {name: refused(data, public_key) for name, data in broken.items()}
    assert outcomes == dict.fromkeys(broken, (1, "COSE_DECODE_FAILED"))


def test_an_empty_payload_is_a_missing_one(seal: Seal, public_key: bytes) -> None:
    assert refused(seal(b""), public_key) == (1, "MISSING_PAYLOAD")


def test_an_envelope_spelled_differently_is_refused(claims: Claims, key: Ed25519PrivateKey, public_key: bytes) -> None:
    raw = issue_receipt(claims, key)
    items = b"".join(cbor.encode(part) for part in parts(raw))
    for head, tail in ((b"\x9f", b"\xff"), (b"\x98\x04", b"")):
        assert refused(b"\xd2" + head + items + tail, public_key) == (1, "NON_DETERMINISTIC_CBOR")


def test_size_is_capped_at_65536_bytes(public_key: bytes) -> None:
    assert refused(b"\xd2" + bytes(65_536), public_key) == (1, "RECEIPT_TOO_LARGE")
    assert refused(b"\xd2" + bytes(65_535), public_key) == (1, "COSE_DECODE_FAILED")


@pytest.mark.parametrize(
    "body", [b"\x80", b"\x01", b"\xf6", b"\x43abc", b"\xa1", b"\xff", b"\xa0\x00", b"\xd9\xd9\xf7\xa0", b"\xa1\xf4\x01"]
)
def test_a_payload_that_is_no_map_is_refused(seal: Seal, public_key: bytes, body: bytes) -> None:
    assert refused(seal(body), public_key) == (1, "PAYLOAD_NOT_MAP")


def test_the_payload_is_deterministic(payload: Payload, seal: Seal, public_key: bytes) -> None:
    reordered = cbor2.dumps(dict(reversed(list(payload.items()))))
    assert refused(seal(reordered), public_key) == (1, "NON_DETERMINISTIC_CBOR")
    encoded = cbor.encode(dict(payload))
    # iat, four bytes, spelled in eight.
    wide = encoded.replace(b"\x06\x1a", b"\x06\x1b" + bytes(4), 1)
    assert refused(seal(wide), public_key) == (1, "NON_DETERMINISTIC_CBOR")
    indefinite = b"\xbf" + encoded[1:] + b"\xff"
    assert refused(seal(indefinite), public_key) == (1, "PAYLOAD_NOT_MAP")


def test_duplicate_keys_are_refused_wherever_they_are(payload: Payload, seal: Seal, public_key: bytes) -> None:
    encoded = cbor.encode(dict(payload))
    assert encoded[0] == 0xA0 | len(payload) == 0xB2
    last = cbor.encode(-65549) + cbor.encode("sha256-manifest")
    assert encoded.endswith(last)
    assert refused(seal(b"\xb3" + encoded[1:] + last), public_key) == (1, "PAYLOAD_NOT_MAP")
    inner = cbor.encode(payload[-65543])
    doubled = bytes([inner[0] + 1]) + inner[1:] + inner[1 : 1 + 5 + 50]
    assert refused(seal(encoded.replace(inner, doubled)), public_key) == (1, "PAYLOAD_NOT_MAP")


@pytest.mark.parametrize("profile", ["https://spec.cyntrisec.com/air/v2", "", b"https://spec.cyntrisec.com/air/v1", 1])
def test_another_profile_is_refused_before_the_signature(
    payload: Payload, seal: Seal, public_key: bytes, profile: object
) -> None:
    assert refused(seal({**payload, 265: profile}), public_key) == (1, "WRONG_PROFILE")


def test_a_missing_profile_is_refused(payload: Payload, seal: Seal, public_key: bytes) -> None:
    bare = {name: value for name, value in payload.items() if name != 265}
    assert refused(seal(bare), public_key) == (1, "WRONG_PROFILE")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_is_64_bytes(claims: Claims, key: Ed25519PrivateKey, public_key: bytes, size: int) -> None:
    protected, unprotected, payload, _ = parts(issue_receipt(claims, key))
    raw = b"\xd2" + cbor.encode([protected, unprotected, payload, bytes(size)])
    assert refused(raw, public_key) == (2, "BAD_SIG_LENGTH")


def test_another_key_or_altered_claims_fail_the_signature(
    claims: Claims, key: Ed25519PrivateKey, public_key: bytes
) -> None:
    raw = issue_receipt(claims, key)
    protected, unprotected, _, signature = parts(raw)
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert refused(raw, other) == (2, "SIG_FAILED")
    assert refused(raw, public_key[:31]) == (2, "SIG_FAILED")
    altered = dataclasses.replace(claims, response_hash=b"x" * 32).to_payload()
    moved = b"\xd2" + cbor.encode([protected, unprotected, altered, signature])
    assert refused(moved, public_key) == (2, "SIG_FAILED")


def test_a_signature_under_a_small_order_key_is_refused(payload: Payload) -> None:
    # The identity point verifies this all-trivial signature for every message, unless verification is strict.
    identity = (1).to_bytes(32, "little")
    body = cbor.encode(dict(payload))
    raw = b"\xd2" + cbor.encode([bytes.fromhex("a2012703183d"), {}, body, identity + bytes(32)])
    assert refused(raw, identity) == (2, "SIG_FAILED")


def test_each_layer_comes_after_the_one_before(payload: Payload, seal: Seal, public_key: bytes) -> None:
    bad_claims = seal({**payload, -65539: bytes(32)})
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    policy = ReceiptPolicy(expected_nonce=b"another nonce")
    assert refused(seal({**payload, 265: "", -65539: bytes(32)}), other, policy)[0] == 1
    assert refused(bad_claims, other, policy)[0] == 2
    assert refused(bad_claims, public_key, policy)[0] == 3
    assert refused(seal(payload), public_key, policy)[0] == 4


@given(data=st.data())
def test_no_mutation_of_a_receipt_is_accepted(data: st.DataObject, claims: Claims, key: Ed25519PrivateKey) -> None:
    raw = issue_receipt(claims, key)
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 8)))
    mutated = raw[:start] + data.draw(st.binary(max_size=8)) + raw[end:]
    if mutated != raw:
        with pytest.raises(ReceiptError):
            verify_receipt(mutated, public_key=key.public_key())


@given(mutation=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.binary(max_size=6)))
def test_a_payload_mutated_and_signed_again_raises_only_receipt_errors(
    mutation: tuple[int, int, bytes], payload: Payload, seal: Seal, public_key: bytes
) -> None:
    encoded = cbor.encode(dict(payload))
    start, length, insert = mutation[0] % len(encoded), mutation[1] % 6, mutation[2]
    raw = seal(encoded[:start] + insert + encoded[start + length :])
    try:
        accepted = verify_receipt(raw, public_key=public_key).claims.to_payload()
    except ReceiptError:
        return
    assert seal(accepted) == raw


@given(raw=st.binary(max_size=200), key=st.binary(max_size=40))
@example(raw=b"\xd2\x84\x40\xa0\x40\x40", key=b"")
def test_any_bytes_raise_only_receipt_errors(raw: bytes, key: bytes) -> None:
    with pytest.raises(ReceiptError):
        verify_receipt(raw, public_key=key)
