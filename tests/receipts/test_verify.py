"""Whole bundles: what holds, what the table says, and that nothing in one can be exchanged."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import KeyReleaseBinding, Measurements, Policy, Verdict
from ephemeralml.codec import cbor
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import AttestationError, EphemeralMLError, PackageError, ReceiptError
from ephemeralml.receipts import Bundle, EnclaveMeasurements, verify_bundle

PCRS = {index: bytes([index + 1]) * 48 for index in range(16)}
STEPS = [
    "bundle",
    "parse",
    "signature",
    "chain",
    "freshness",
    "measurements",
    "manifest",
    "key binding",
    "model",
    "receipt parse",
    "receipt signature",
    "receipt claims",
    "receipt evidence",
]


def refused(data: bytes, policy: Policy) -> tuple[int, str]:
    """Layer and code of a ReceiptError whose table ends in the step of that layer."""
    with pytest.raises(ReceiptError) as caught:
        verify_bundle(data, policy=policy)
    assert_table(caught.value.verdict, str(caught.value))
    return caught.value.layer, caught.value.code


def refused_evidence(data: bytes, policy: Policy) -> str:
    with pytest.raises(AttestationError) as caught:
        verify_bundle(data, policy=policy)
    assert_table(caught.value.verdict, str(caught.value))
    return caught.value.code


def assert_table(verdict: object, message: str) -> None:
    """Every step up to the failure, in order; only the last failed, and it says why."""
    assert isinstance(verdict, Verdict)
    assert [step.name for step in verdict.steps] == STEPS[: len(verdict.steps)]
    assert [step.ok for step in verdict.steps] == [True] * (len(verdict.steps) - 1) + [False]
    assert verdict.steps[-1].detail == message
    assert not verdict.ok
    assert not verdict.confidential


def with_part(world: Any, **parts: bytes) -> bytes:
    return dataclasses.replace(Bundle.from_bytes(world.bundle()), **parts).to_bytes()


def test_a_bundle_verifies_at_its_own_time(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "answer.aer"
    path.write_bytes(world.bundle())
    for source in (world.bundle(), path, str(path)):
        verdict = verify_bundle(source, policy=world.policy)
        assert verdict.ok
        assert [step.name for step in verdict.steps] == STEPS
        assert verdict.manifest == world.manifest
        assert verdict.document.raw == world.document
        assert dataclasses.replace(verdict.receipt.claims, attestation_doc_hash=b"\x44" * 32) == world.claims


def test_the_table_says_that_local_is_not_confidential(world: Any) -> None:
    verdict = verify_bundle(world.bundle(), policy=world.policy)
    assert (verdict.platform, verdict.insecure, verdict.confidential) == ("local", False, False)
    lines = str(verdict).splitlines()
    assert len(lines) == len(STEPS) + 1
    assert all(line.startswith("✓ ") for line in lines[:-1])
    assert lines[-1].startswith("platform local, not confidential")


def test_an_insecure_policy_shows(world: Any) -> None:
    policy = Policy.insecure_any_measurement(extra_roots=world.policy.extra_roots)
    verdict = verify_bundle(world.bundle(), policy=policy)
    assert verdict.insecure
    assert "any measurement" in str(verdict).splitlines()[-1]


def test_the_caller_may_choose_the_time(world: Any) -> None:
    made = verify_bundle(world.bundle(), policy=world.policy).document.timestamp
    assert verify_bundle(world.bundle(), policy=world.policy, at=made + timedelta(hours=2)).ok
    with pytest.raises(AttestationError) as caught:
        verify_bundle(world.bundle(), policy=world.policy, at=made + timedelta(hours=4))
    assert caught.value.code == "chain.expired"
    with pytest.raises(ValueError, match="time zone"):
        verify_bundle(world.bundle(), policy=world.policy, at=made.replace(tzinfo=None))


def test_a_bundle_that_cannot_be_read_is_refused_first(world: Any, tmp_path: Path) -> None:
    assert refused(b"", world.policy) == (1, "BUNDLE_MALFORMED")
    assert refused(world.bundle() + b"\x00", world.policy) == (1, "BUNDLE_MALFORMED")
    with pytest.raises(ReceiptError) as caught:
        verify_bundle(tmp_path / "missing.aer", policy=world.policy)
    assert_table(caught.value.verdict, str(caught.value))


def test_evidence_the_policy_does_not_accept_is_refused(world: Any) -> None:
    pinned = Measurements(pcr0=b"x" * 48, pcr1=PCRS[1], pcr2=PCRS[2])
    others = Policy(measurements=[pinned], extra_roots=world.policy.extra_roots)
    assert refused_evidence(world.bundle(), others) == "measurements.mismatch"
    aws_only = Policy(measurements=world.policy.measurements)
    assert refused_evidence(world.bundle(), aws_only) == "chain.untrusted_root"
    another_root = Policy(measurements=world.policy.measurements, extra_roots=[DevelopmentRoot.create().der])
    assert refused_evidence(world.bundle(), another_root) == "chain.untrusted_root"


def test_a_document_that_is_none_is_refused_with_a_table(world: Any) -> None:
    assert refused_evidence(with_part(world, document=b"x"), world.policy) == "parse.cose"
    altered = world.document[:-1] + bytes([world.document[-1] ^ 1])
    assert refused_evidence(with_part(world, document=altered), world.policy) == "signature.invalid"


def test_models_the_policy_does_not_allow_are_refused(world: Any) -> None:
    roots = world.policy.extra_roots
    other_model = Policy(measurements=world.policy.measurements, models=[b"x" * 32], extra_roots=roots)
    assert refused_evidence(world.bundle(), other_model) == "model.not_allowed"
    newer = Policy(measurements=world.policy.measurements, minimum_model_version=4, extra_roots=roots)
    assert refused_evidence(world.bundle(), newer) == "model.version"


def test_a_document_for_another_purpose_key_or_model_is_refused(world: Any) -> None:
    release = KeyReleaseBinding(package=b"p" * 16, model=world.manifest.digest).to_user_data()
    assert refused_evidence(world.bundle(document=world.attest(user_data=release)), world.policy) == (
        "key_binding.user_data"
    )
    assert refused_evidence(world.bundle(document=world.attest(user_data=None)), world.policy) == (
        "key_binding.user_data"
    )
    for key in (None, b"", b"k" * 31):
        document = world.attest(public_key=key)
        assert refused_evidence(world.bundle(document=document), world.policy) == "key_binding.receipt_key"
    assert refused_evidence(world.bundle(document=world.attest(model=b"x" * 32)), world.policy) == "model.digest"


def test_another_manifest_is_refused(world: Any) -> None:
    swapped = dataclasses.replace(world.manifest, version=4)
    assert refused_evidence(world.bundle(manifest=swapped), world.policy) == "model.digest"


@pytest.mark.parametrize("part", [b"x", b"\xd2\x84\x40\xa0\x40\x40"])
def test_a_manifest_that_is_none_is_refused(world: Any, part: bytes) -> None:
    with pytest.raises(PackageError) as caught:
        verify_bundle(with_part(world, manifest=part), policy=world.policy)
    assert caught.value.code == "manifest.malformed"


def test_a_manifest_by_nobody_is_refused(world: Any) -> None:
    signed = Bundle.from_bytes(world.bundle()).manifest
    with pytest.raises(PackageError) as caught:
        verify_bundle(with_part(world, manifest=signed[:-1] + bytes([signed[-1] ^ 1])), policy=world.policy)
    assert caught.value.code == "manifest.signature"


def test_a_receipt_by_another_key_is_refused(world: Any) -> None:
    forged = world.bundle(key=Ed25519PrivateKey.generate())
    assert refused(forged, world.policy) == (2, "SIG_FAILED")
    elsewhere = world.attest(public_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    assert refused(world.bundle(document=elsewhere), world.policy) == (2, "SIG_FAILED")


def test_another_sessions_document_is_refused(world: Any) -> None:
    other = world.attest()
    assert refused(with_part(world, document=other), world.policy) == (5, "ATTESTATION_DOC_HASH_MISMATCH")


def test_a_receipt_that_is_none_is_refused(world: Any) -> None:
    assert refused(with_part(world, receipt=b"x"), world.policy) == (1, "COSE_DECODE_FAILED")


def test_a_receipt_with_bad_claims_is_refused(world: Any, payload: Any, seal: Any) -> None:
    bad = seal({**payload, -65539: bytes(32)})
    assert refused(with_part(world, receipt=bad), world.policy) == (3, "ZERO_MODEL_HASH")


NITRO = {f"pcr{index}": PCRS[index] for index in (0, 1, 2)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"attestation_doc_hash": b"x" * 32}, "ATTESTATION_DOC_HASH_MISMATCH"),
        (
            {"enclave_measurements": EnclaveMeasurements(measurement_type="tdx-mrtd-rtmr", **NITRO)},
            "PLATFORM_MISMATCH",
        ),
        *(
            (
                {
                    "enclave_measurements": EnclaveMeasurements(
                        measurement_type="nitro-pcr", **NITRO | {name: b"x" * 48}
                    )
                },
                "MEASUREMENTS_MISMATCH",
            )
            for name in ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8")
        ),
        ({"model_hash": b"x" * 32}, "MODEL_HASH_MISMATCH"),
        ({"model_hash_scheme": None}, "MODEL_HASH_SCHEME_MISMATCH"),
        ({"model_hash_scheme": "sha256-single"}, "MODEL_HASH_SCHEME_MISMATCH"),
        ({"model_id": "all-MiniLM-L12-v2"}, "MODEL_ID_MISMATCH"),
        ({"model_version": "03"}, "MODEL_VERSION_MISMATCH"),
        ({"model_version": "3+fp32"}, "MODEL_VERSION_MISMATCH"),
        ({"model_version": "3+int8"}, "MODEL_VERSION_MISMATCH"),
        ({"eat_nonce": None}, "NONCE_MISSING"),
        ({"security_mode": "production"}, "SECURITY_MODE_MISMATCH"),
    ],
)
def test_claims_that_do_not_fit_the_evidence_are_refused(world: Any, change: dict[str, Any], code: str) -> None:
    assert refused(world.bundle(**change), world.policy) == (5, code)


def test_required_measurements_alone_are_enough(world: Any) -> None:
    bare = EnclaveMeasurements(measurement_type="nitro-pcr", **NITRO)
    assert verify_bundle(world.bundle(enclave_measurements=bare), policy=world.policy).ok


def test_a_receipt_belongs_to_the_life_of_its_document(world: Any) -> None:
    made = verify_bundle(world.bundle(), policy=world.policy).document.timestamp.timestamp()
    skew, session = 5 * 60, 3 * 3600
    for iat in (int(made - skew) + 1, int(made + session + skew)):
        assert verify_bundle(world.bundle(iat=iat), policy=world.policy).ok
    for iat, code in (
        (1, "TIMESTAMP_BEFORE_EVIDENCE"),
        (int(made - skew) - 1, "TIMESTAMP_BEFORE_EVIDENCE"),
        (int(made + session + skew) + 1, "TIMESTAMP_AFTER_SESSION"),
        (2**64 - 1, "TIMESTAMP_AFTER_SESSION"),
    ):
        assert refused(world.bundle(iat=iat), world.policy) == (5, code)


def test_debug_evidence_is_never_production(world: Any) -> None:
    document = world.attest(pcrs={**PCRS, 0: bytes(48)})
    policy = Policy.insecure_any_measurement(extra_roots=world.policy.extra_roots)
    measured = EnclaveMeasurements(measurement_type="nitro-pcr", **NITRO | {"pcr0": bytes(48)})
    claimed = {"document": document, "enclave_measurements": measured}
    assert "debug mode" in str(verify_bundle(world.bundle(**claimed), policy=policy)).splitlines()[-1]
    assert refused(world.bundle(**claimed, security_mode="production"), policy) == (5, "SECURITY_MODE_MISMATCH")


def as_if_aws(monkeypatch: pytest.MonkeyPatch, world: Any) -> Policy:
    """The development root in the place of AWS's, for what only the nitro platform may claim."""
    monkeypatch.setattr(
        "ephemeralml.attestation.chain.AWS_NITRO_ROOT_G1_SHA256", hashlib.sha256(world.root.der).digest()
    )
    return Policy(measurements=world.policy.measurements)


def test_production_belongs_to_the_nitro_platform(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = as_if_aws(monkeypatch, world)
    verdict = verify_bundle(world.bundle(security_mode="production"), policy=policy)
    assert (verdict.platform, verdict.confidential) == ("nitro", True)
    assert str(verdict).splitlines()[-1] == "platform nitro, confidential"
    assert refused(world.bundle(security_mode="evaluation"), policy) == (5, "SECURITY_MODE_MISMATCH")


def test_debug_mode_on_nitro_is_evaluation(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_aws(monkeypatch, world)
    policy = Policy.insecure_any_measurement()
    document = world.attest(pcrs={**PCRS, 0: bytes(48)})
    measured = EnclaveMeasurements(measurement_type="nitro-pcr", **NITRO | {"pcr0": bytes(48)})
    claimed = {"document": document, "enclave_measurements": measured}
    assert not verify_bundle(world.bundle(**claimed), policy=policy).confidential
    assert refused(world.bundle(**claimed, security_mode="production"), policy) == (5, "SECURITY_MODE_MISMATCH")


@given(data=st.data())
def test_no_mutation_of_a_bundle_is_accepted(data: st.DataObject, world: Any) -> None:
    raw = world.bundle()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 8)))
    mutated = raw[:start] + data.draw(st.binary(max_size=8)) + raw[end:]
    if mutated != raw:
        with pytest.raises((AttestationError, PackageError, ReceiptError)):
            verify_bundle(mutated, policy=world.policy)


@given(name=st.sampled_from(["receipt", "document", "manifest"]), part=st.binary(min_size=1, max_size=100))
def test_any_bytes_as_a_part_raise_only_our_errors(name: str, part: bytes, world: Any) -> None:
    value = cbor.decode(world.bundle())
    assert isinstance(value, dict)
    with pytest.raises(EphemeralMLError):
        verify_bundle(cbor.encode({**value, name: part}), policy=world.policy)
