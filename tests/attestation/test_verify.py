from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ephemeralml.attestation import Measurements, Policy, SessionBinding, Verdict, bind_session, verify_document
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import AttestationError

Forge = Callable[..., bytes]
HPKE = b"hpke public key"
MODEL = b"m" * 32
BINDING = SessionBinding(hpke=hashlib.sha256(HPKE).digest(), model=MODEL, config=b"c" * 32, boot=b"b" * 16)


def _refused(call: Callable[[], object]) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        call()
    verdict = caught.value.verdict
    assert isinstance(verdict, Verdict)
    assert not verdict.ok
    assert not verdict.confidential
    assert [step.ok for step in verdict.steps] == [True] * (len(verdict.steps) - 1) + [False]
    assert verdict.steps[-1].name == caught.value.step
    assert verdict.steps[-1].detail == str(caught.value)
    assert "not confidential: refused" in str(verdict).splitlines()[-1]
    return caught.value


def test_a_software_nsm_document_verifies_step_by_step(
    root: DevelopmentRoot, policy: Policy, measurements: Measurements
) -> None:
    nsm = SoftwareNsm(root, measurements.registers)
    answer: Any = cbor.decode(nsm.handle(cbor.encode({"Attestation": {"nonce": b"n" * 32}})))
    verdict = verify_document(answer["Attestation"]["document"], policy=policy, at=datetime.now(UTC), nonce=b"n" * 32)
    assert verdict.ok
    assert [step.name for step in verdict.steps] == ["parse", "signature", "chain", "freshness", "measurements"]
    assert (verdict.platform, verdict.insecure, verdict.confidential) == ("local", False, False)
    assert verdict.document.nonce == b"n" * 32


def test_the_verdict_prints_as_a_table(forge: Forge, policy: Policy, now: datetime) -> None:
    lines = str(verify_document(forge(), policy=policy, at=now)).splitlines()
    assert [line[:2] for line in lines[:-1]] == ["✓ "] * 5
    assert len({line.index("  ", len("✓ measurements")) for line in lines[4:5]}) == 1
    assert lines[-1] == "platform local, not confidential: a development root signed it, not AWS"


def test_an_unreadable_document_has_a_verdict_without_document(policy: Policy, now: datetime) -> None:
    verdict = _refused(lambda: verify_document(b"", policy=policy, at=now)).verdict
    assert isinstance(verdict, Verdict)
    assert verdict.platform == "unknown"
    with pytest.raises(ValueError, match="not an attestation document"):
        _ = verdict.document


def test_an_empty_verdict_is_not_ok() -> None:
    assert not Verdict(insecure=False).ok
    assert str(Verdict(insecure=False)).startswith("platform unknown, not confidential: refused")


def test_confidential_is_aws_pinned_and_no_debug(forge: Forge, policy: Policy, now: datetime) -> None:
    # No AWS key is at hand, so the platform alone is replaced.
    verdict = replace(verify_document(forge(), policy=policy, at=now), platform="nitro")
    assert verdict.confidential
    assert str(verdict).splitlines()[-1] == "platform nitro, confidential"
    assert not replace(verdict, insecure=True).confidential
    assert not replace(verdict, platform="local").confidential
    assert not verdict.failed("model", "another").confidential


def test_a_time_without_zone_is_a_callers_mistake(forge: Forge, policy: Policy) -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify_document(forge(), policy=policy, at=datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_nonce_must_be_the_callers(forge: Forge, policy: Policy, now: datetime) -> None:
    assert verify_document(forge(), policy=policy, at=now, nonce=b"n" * 32).ok
    for raw, nonce in ((forge(), b"m" * 32), (forge(), b""), (forge(nonce=None), b"n" * 32), (forge(nonce=b""), b"n")):
        error = _refused(lambda raw=raw, nonce=nonce: verify_document(raw, policy=policy, at=now, nonce=nonce))  # type: ignore[misc]
        assert (error.step, error.code) == ("freshness", "freshness.nonce")


def test_a_timestamp_outside_the_leafs_validity_is_refused(forge: Forge, policy: Policy, now: datetime) -> None:
    seconds = int(now.timestamp())
    for timestamp in (seconds, (seconds - 60) * 1000, (seconds + 4 * 3600) * 1000):
        error = _refused(lambda t=timestamp: verify_document(forge(timestamp=t), policy=policy, at=now))  # type: ignore[misc]
        assert error.code == "freshness.timestamp"


def test_a_timestamp_in_the_future_is_refused_beyond_the_skew(forge: Forge, policy: Policy, now: datetime) -> None:
    millis = int(now.timestamp() * 1000)
    assert verify_document(forge(timestamp=millis + 4 * 60_000), policy=policy, at=now).ok
    ahead = forge(timestamp=millis + 6 * 60_000)
    assert _refused(lambda: verify_document(ahead, policy=policy, at=now)).code == "freshness.future"
    assert verify_document(ahead, policy=policy, at=now + timedelta(minutes=6)).ok


def _registers(*values: int) -> dict[int, bytes]:
    return {index: bytes([value]) * 48 for index, value in enumerate(values)}


def _set(*values: int) -> Measurements:
    first, second, third = (bytes([value]) * 48 for value in values)
    return Measurements(pcr0=first, pcr1=second, pcr2=third)


def test_sets_match_as_a_whole(forge: Forge, root: DevelopmentRoot, now: datetime) -> None:
    policy = Policy(measurements=[_set(1, 2, 3), _set(4, 5, 6)], extra_roots=[root.der])
    for good in (_registers(1, 2, 3), _registers(4, 5, 6)):
        assert verify_document(forge(pcrs=good), policy=policy, at=now).ok
    for bad in (_registers(1, 2, 6), _registers(1, 5, 3), _registers(4, 2, 3), _registers(1, 2), _registers(7, 8, 9)):
        error = _refused(lambda bad=bad: verify_document(forge(pcrs=bad), policy=policy, at=now))  # type: ignore[misc]
        assert (error.step, error.code) == ("measurements", "measurements.mismatch")
    assert "differs in PCR2" in str(
        _refused(lambda: verify_document(forge(pcrs=_registers(1, 2, 6)), policy=policy, at=now))
    )


@pytest.mark.parametrize(("name", "index"), [("pcr3", 3), ("pcr4", 4), ("pcr8", 8)])
def test_optional_registers_count_once_named(
    forge: Forge, root: DevelopmentRoot, now: datetime, name: str, index: int
) -> None:
    pinned: Any = {"pcr0": b"\x01" * 48, "pcr1": b"\x02" * 48, "pcr2": b"\x03" * 48, name: b"x" * 48}
    policy = Policy(measurements=[Measurements(**pinned)], extra_roots=[root.der])
    assert verify_document(forge(pcrs={**_registers(1, 2, 3), index: b"x" * 48}), policy=policy, at=now).ok
    for registers in ({**_registers(1, 2, 3), index: b"y" * 48}, _registers(1, 2, 3)):
        error = _refused(lambda pcrs=registers: verify_document(forge(pcrs=pcrs), policy=policy, at=now))  # type: ignore[misc]
        assert error.code == "measurements.mismatch"


def test_debug_mode_has_its_own_refusal(forge: Forge, root: DevelopmentRoot, policy: Policy, now: datetime) -> None:
    debug = forge(pcrs=_registers(0, 0, 0))
    assert _refused(lambda: verify_document(debug, policy=policy, at=now)).code == "measurements.debug"
    verdict = verify_document(debug, policy=Policy.insecure_any_measurement(extra_roots=[root.der]), at=now)
    assert verdict.insecure
    assert not replace(verdict, platform="nitro", insecure=False).confidential
    assert "debug mode" in str(verdict)
    assert "any measurement" in str(verdict)


@pytest.fixture(scope="module")
def verified(forge: Forge, policy: Policy, now: datetime) -> Verdict:
    return verify_document(forge(user_data=BINDING.to_user_data()), policy=policy, at=now)


def _bind(verdict: Verdict, policy: Policy, **changes: Any) -> Verdict:
    arguments: Any = {"hpke_public_key": HPKE, "model_id": "tiny", "model_digest": MODEL, "model_version": 3, **changes}
    return bind_session(verdict, policy=policy, **arguments)


def test_a_session_is_bound_to_key_and_model(verified: Verdict, policy: Policy) -> None:
    bound = _bind(verified, policy)
    assert bound.ok
    assert [step.name for step in bound.steps[5:]] == ["key binding", "model"]
    assert len(verified.steps) == 5
    assert _bind(verified, policy, hpke_public_key=None).ok


def test_another_hpke_key_is_refused(verified: Verdict, policy: Policy) -> None:
    for key in (b"another", b""):
        error = _refused(lambda key=key: _bind(verified, policy, hpke_public_key=key))  # type: ignore[misc]
        assert (error.step, error.code) == ("key binding", "key_binding.hpke")


@pytest.mark.parametrize("key", [None, b"", b"k" * 31, b"k" * 33])
def test_a_receipt_key_is_needed(forge: Forge, policy: Policy, now: datetime, key: bytes | None) -> None:
    verdict = verify_document(forge(public_key=key, user_data=BINDING.to_user_data()), policy=policy, at=now)
    for hpke in (HPKE, None):
        error = _refused(lambda hpke=hpke: _bind(verdict, policy, hpke_public_key=hpke))  # type: ignore[misc]
        assert error.code == "key_binding.receipt_key"


def test_another_purpose_is_refused(forge: Forge, policy: Policy, now: datetime) -> None:
    verdict = verify_document(forge(user_data=b"\xa0"), policy=policy, at=now)
    assert _refused(lambda: _bind(verdict, policy)).code == "key_binding.user_data"
    assert _refused(lambda: _bind(verdict, policy, hpke_public_key=None)).code == "key_binding.user_data"


def test_refused_evidence_binds_nothing(verified: Verdict, policy: Policy) -> None:
    with pytest.raises(AttestationError) as caught:
        _bind(verified.failed("freshness", "old"), policy)
    assert caught.value.code == "key_binding.unverified"
    with pytest.raises(AttestationError):
        _bind(Verdict(insecure=False), policy)


def test_a_nitrotpm_instance_is_no_enclave(forge: Forge, policy: Policy, now: datetime) -> None:
    raw = forge(_drop="pcrs", nitrotpm_pcrs=_registers(1, 2, 3), user_data=BINDING.to_user_data())
    verdict = verify_document(raw, policy=policy, at=now)
    assert not replace(verdict, platform="nitro").confidential
    assert "no enclave" in str(verdict)
    assert _refused(lambda: _bind(verdict, policy)).code == "key_binding.not_an_enclave"


def test_another_model_is_refused(verified: Verdict, policy: Policy, measurements: Measurements) -> None:
    error = _refused(lambda: _bind(verified, policy, model_digest=b"x" * 32))
    assert (error.step, error.code) == ("model", "model.digest")
    listed = Policy(measurements=[measurements], models=[b"x" * 32])
    assert _refused(lambda: _bind(verified, listed)).code == "model.not_allowed"
    assert _bind(verified, Policy(measurements=[measurements], models=[b"x" * 32, MODEL])).ok


def test_a_model_of_another_name_is_refused(verified: Verdict, measurements: Measurements) -> None:
    named = Policy(measurements=[measurements], model_id="tiny")
    assert _bind(verified, named).ok
    error = _refused(lambda: _bind(verified, named, model_id="other"))
    assert (error.step, error.code) == ("model", "model.id")


def test_an_older_model_is_refused(verified: Verdict, measurements: Measurements) -> None:
    newer = Policy(measurements=[measurements], minimum_model_version=4)
    assert _refused(lambda: _bind(verified, newer)).code == "model.version"
    assert _bind(verified, newer, model_version=4).ok
