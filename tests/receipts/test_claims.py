"""Every rule of the claims map: what each violation is called, when verifying and when building."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.errors import ReceiptError
from ephemeralml.receipts import Claims, EnclaveMeasurements, issue_receipt, verify_receipt

Seal = Callable[..., bytes]
Payload = Mapping[int, Any]

MEASUREMENTS = -65543
ABSENT = object()
REQUIRED = {
    "iss": 1,
    "iat": 6,
    "cti": 7,
    "model_id": -65537,
    "model_version": -65538,
    "model_hash": -65539,
    "request_hash": -65540,
    "response_hash": -65541,
    "attestation_doc_hash": -65542,
    "enclave_measurements": MEASUREMENTS,
    "policy_version": -65544,
    "sequence_number": -65545,
    "execution_time_ms": -65546,
    "memory_peak_mb": -65547,
    "security_mode": -65548,
}
TEXTS = {name: REQUIRED[name] for name in ("iss", "model_id", "model_version", "policy_version", "security_mode")}
HASHES = {name: REQUIRED[name] for name in ("model_hash", "request_hash", "response_hash", "attestation_doc_hash")}
COUNTERS = {name: REQUIRED[name] for name in ("iat", "sequence_number", "execution_time_ms", "memory_peak_mb")}


def refused(raw: bytes, public_key: bytes) -> tuple[int, str]:
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(raw, public_key=public_key)
    return caught.value.layer, caught.value.code


CHANGES: list[tuple[int | str, object, str]] = [
    *((key, ABSENT, "MISSING_CLAIM") for key in REQUIRED.values()),
    *((key, None, "WRONG_TYPE") for key in (*REQUIRED.values(), 10, -65549)),
    *((key, wrong, "WRONG_TYPE") for key in TEXTS.values() for wrong in (b"x", 1)),
    *((key, "", "EMPTY_TEXT") for key in TEXTS.values()),
    *((key, "é" * 513, "TEXT_TOO_LONG") for key in TEXTS.values()),
    *((key, wrong, "WRONG_TYPE") for key in COUNTERS.values() for wrong in (-1, True, "1", b"1", [1])),
    *((key, wrong, "WRONG_TYPE") for key in HASHES.values() for wrong in ("x" * 32, 1, [b"x" * 32])),
    *((key, b"x" * size, "BAD_HASH_LENGTH") for key in HASHES.values() for size in (0, 31, 33, 48)),
    (6, 0, "IAT_ZERO"),
    (7, "x" * 16, "WRONG_TYPE"),
    *((7, b"x" * size, "BAD_CTI_LENGTH") for size in (0, 15, 17, 36)),
    (7, bytes(16), "ZERO_CTI"),
    (10, "x" * 16, "WRONG_TYPE"),
    *((10, b"x" * size, "BAD_NONCE_LENGTH") for size in (0, 7, 65)),
    (-65539, bytes(32), "ZERO_MODEL_HASH"),
    *((-65548, mode, "UNKNOWN_SECURITY_MODE") for mode in ("Production", "debug", "FullAttestation")),
    (-65549, 1, "WRONG_TYPE"),
    (-65549, "", "EMPTY_TEXT"),
    *((-65549, scheme, "UNKNOWN_MODEL_HASH_SCHEME") for scheme in ("sha256", "sha512-single", "SHA256-manifest")),
    *((key, b"x", "UNKNOWN_CLAIM_KEY") for key in (0, 2, 11, -65536, -65550, -65599, "iss")),
    (MEASUREMENTS, b"x" * 48, "WRONG_TYPE"),
    (MEASUREMENTS, [], "WRONG_TYPE"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_signed_receipt_that_breaks_a_claim_rule_is_refused(
    payload: Payload, seal: Seal, public_key: bytes, change: tuple[int | str, object, str]
) -> None:
    key, value, code = change
    changed: dict[Any, Any] = {**payload, key: value}
    if value is ABSENT:
        del changed[key]
    assert refused(seal(changed), public_key) == (3, code)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        *(({name: ABSENT}, "BAD_MEASUREMENT_LENGTH") for name in ("pcr0", "pcr1", "pcr2")),
        *(
            ({name: value}, "BAD_MEASUREMENT_LENGTH")
            for name in ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8")
            for value in (b"", b"x" * 32, b"x" * 47, b"x" * 49, "x" * 48, None)
        ),
        ({"measurement_type": ABSENT}, "UNKNOWN_MTYPE"),
        ({"measurement_type": 1}, "UNKNOWN_MTYPE"),
        ({"measurement_type": "sev-snp"}, "UNKNOWN_MTYPE"),
        ({"measurement_type": "tdx-mrtd-rtmr"}, "TDX_PCR8_FORBIDDEN"),
        ({"pcr5": b"x" * 48}, "UNKNOWN_MEASUREMENT_KEY"),
        ({"PCR0": b"x" * 48}, "UNKNOWN_MEASUREMENT_KEY"),
        ({0: b"x" * 48}, "UNKNOWN_MEASUREMENT_KEY"),
    ],
)
def test_a_signed_receipt_that_breaks_a_measurement_rule_is_refused(
    payload: Payload, seal: Seal, public_key: bytes, change: dict[str, object], code: str
) -> None:
    measurements = {**payload[MEASUREMENTS], **change}
    measurements = {name: value for name, value in measurements.items() if value is not ABSENT}
    assert refused(seal({**payload, MEASUREMENTS: measurements}), public_key) == (3, code)


def test_tdx_needs_three_registers_and_may_have_five(payload: Payload, seal: Seal, public_key: bytes) -> None:
    tdx = {**payload[MEASUREMENTS], "measurement_type": "tdx-mrtd-rtmr"}
    del tdx["pcr8"]
    five = verify_receipt(seal({**payload, MEASUREMENTS: tdx}), public_key=public_key)
    assert set(five.claims.enclave_measurements.registers) == {"pcr0", "pcr1", "pcr2", "pcr3", "pcr4"}
    del tdx["pcr3"], tdx["pcr4"]
    three = verify_receipt(seal({**payload, MEASUREMENTS: tdx}), public_key=public_key)
    assert set(three.claims.enclave_measurements.registers) == {"pcr0", "pcr1", "pcr2"}


@pytest.mark.parametrize("size", [8, 64])
def test_nonces_of_8_to_64_bytes_are_accepted(payload: Payload, seal: Seal, public_key: bytes, size: int) -> None:
    receipt = verify_receipt(seal({**payload, 10: b"x" * size}), public_key=public_key)
    assert receipt.claims.eat_nonce == b"x" * size


@pytest.mark.parametrize("scheme", ["sha256-single", "sha256-concat", "sha256-manifest"])
@pytest.mark.parametrize("mode", ["production", "evaluation"])
def test_every_defined_mode_and_scheme_is_accepted(
    payload: Payload, seal: Seal, public_key: bytes, scheme: str, mode: str
) -> None:
    claims = verify_receipt(seal({**payload, -65548: mode, -65549: scheme}), public_key=public_key).claims
    assert (claims.security_mode, claims.model_hash_scheme) == (mode, scheme)


def test_optional_claims_may_be_absent(claims: Claims) -> None:
    bare = dataclasses.replace(claims, eat_nonce=None, model_hash_scheme=None)
    encoded = bare.to_payload()
    assert Claims.from_payload(encoded) == bare
    decoded = cbor.decode(encoded)
    assert isinstance(decoded, dict)
    assert {10, -65549}.isdisjoint(decoded)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"iss": ""}, "EMPTY_TEXT"),
        ({"iss": "\ud800"}, "WRONG_TYPE"),
        ({"iat": 0}, "IAT_ZERO"),
        ({"iat": 2**64}, "WRONG_TYPE"),
        ({"iat": 1.5}, "WRONG_TYPE"),
        ({"cti": bytearray(b"x" * 16)}, "WRONG_TYPE"),
        ({"model_hash": bytes(32)}, "ZERO_MODEL_HASH"),
        ({"security_mode": "prod"}, "UNKNOWN_SECURITY_MODE"),
        ({"enclave_measurements": {}}, "WRONG_TYPE"),
    ],
)
def test_what_would_be_refused_cannot_be_built_and_so_not_issued(
    claims: Claims, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(ReceiptError) as caught:
        dataclasses.replace(claims, **change)
    assert (caught.value.layer, caught.value.code) == (3, code)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)
counters = st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32).filter(any)
registers = st.binary(min_size=48, max_size=48)
measurements = st.builds(
    EnclaveMeasurements,
    measurement_type=st.just("nitro-pcr"),
    pcr0=registers,
    pcr1=registers,
    pcr2=registers,
    pcr3=st.none() | registers,
    pcr4=st.none() | registers,
    pcr8=st.none() | registers,
)
any_claims = st.builds(
    Claims,
    iss=texts,
    iat=st.integers(1, 2**64 - 1),
    cti=st.binary(min_size=16, max_size=16).filter(any),
    eat_nonce=st.none() | st.binary(min_size=8, max_size=64),
    model_id=texts,
    model_version=texts,
    model_hash=hashes,
    request_hash=hashes,
    response_hash=hashes,
    attestation_doc_hash=hashes,
    enclave_measurements=measurements,
    policy_version=texts,
    sequence_number=counters,
    execution_time_ms=counters,
    memory_peak_mb=counters,
    security_mode=st.sampled_from(["production", "evaluation"]),
    model_hash_scheme=st.none() | st.sampled_from(["sha256-single", "sha256-concat", "sha256-manifest"]),
)


@given(claims=any_claims)
def test_whatever_is_issued_verifies_and_says_the_same(claims: Claims) -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    receipt = verify_receipt(issue_receipt(claims, key), public_key=key.public_key())
    assert receipt.claims == claims
