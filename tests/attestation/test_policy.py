from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import PolicyError

_PCR = "ab" * 48
_SET: dict[str, Any] = {"pcr0": _PCR, "pcr1": _PCR, "pcr2": _PCR}
_GOOD: dict[str, Any] = {"version": 1, "measurements": [_SET]}


def _full(root: DevelopmentRoot) -> dict[str, Any]:
    return {
        "models": [b"m" * 32, b"l" * 32],
        "model_id": "tiny",
        "minimum_model_version": 3,
        "extra_roots": [root.certificate],
    }


def test_measurements_are_bytes_however_they_were_given() -> None:
    given_hex = Measurements(pcr0=_PCR.upper(), pcr1=_PCR, pcr2=_PCR, pcr8=_PCR)
    assert given_hex == Measurements(pcr0=bytes.fromhex(_PCR), pcr1=_PCR, pcr2=_PCR, pcr8=bytes.fromhex(_PCR))
    assert given_hex.registers == dict.fromkeys((0, 1, 2, 8), b"\xab" * 48)
    assert given_hex != Measurements(pcr0=_PCR, pcr1=_PCR, pcr2=_PCR)


@pytest.mark.parametrize("name", ["pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"])
@pytest.mark.parametrize("value", [b"", b"x" * 47, b"x" * 32, "ab" * 47, " ".join(["ab"] * 48), "zz" * 48, 7, "", [1]])
def test_a_measurement_of_another_size_or_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        Measurements(**{**_SET, name: value})
    assert caught.value.code == "policy.measurement"


@pytest.mark.parametrize("name", ["pcr0", "pcr1", "pcr2"])
@pytest.mark.parametrize("value", [None, bytes(48), "00" * 48])
def test_the_three_are_mandatory_and_never_zero(name: str, value: Any) -> None:
    with pytest.raises(PolicyError):
        Measurements(**{**_SET, name: value})


def test_a_policy_needs_measurements() -> None:
    for nothing in ([], (), [None], [_SET]):
        with pytest.raises(PolicyError) as caught:
            Policy(measurements=nothing)  # type: ignore[arg-type]
        assert caught.value.code == "policy.measurements"


def test_the_insecure_policy_is_another_and_says_so(measurements: Measurements) -> None:
    assert Policy.insecure_any_measurement().insecure
    assert not Policy(measurements=[measurements]).insecure
    assert Policy.insecure_any_measurement() != Policy(measurements=[measurements])
    with pytest.raises(AttributeError):
        Policy(measurements=[measurements]).insecure = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"models": [b"short"]}, "policy.model"),
        ({"models": ["ab" * 32]}, "policy.model"),
        ({"model_id": ""}, "policy.model_id"),
        ({"model_id": 1}, "policy.model_id"),
        ({"minimum_model_version": 0}, "policy.minimum_model_version"),
        ({"minimum_model_version": True}, "policy.minimum_model_version"),
        ({"minimum_model_version": "1"}, "policy.minimum_model_version"),
        ({"extra_roots": [b"no certificate"]}, "policy.extra_root"),
        ({"extra_roots": ["text"]}, "policy.extra_root"),
    ],
)
def test_bad_limits_are_refused(measurements: Measurements, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(measurements=[measurements], **changes)
    assert caught.value.code == code
    with pytest.raises(PolicyError):
        Policy.insecure_any_measurement(**changes)


def test_json_round_trips(measurements: Measurements, root: DevelopmentRoot, tmp_path: Path) -> None:
    second = Measurements(**_SET, pcr3="01" * 48, pcr4="02" * 48, pcr8="03" * 48)
    for policy in (
        Policy(measurements=[measurements]),
        Policy(measurements=[measurements, second], **_full(root)),
        Policy.insecure_any_measurement(),
        Policy.insecure_any_measurement(**_full(root)),
    ):
        assert Policy.from_json(policy.to_json()) == policy
        assert ("insecure_any_measurement" in policy.to_json()) is policy.insecure
        policy.save(tmp_path / "policy.json")
        assert Policy.load(str(tmp_path / "policy.json")) == policy


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"surprise": 1}, "policy.unknown_key"),
        ({"version": 2}, "policy.version"),
        ({"version": True}, "policy.version"),
        ({"version": None}, "policy.version"),
        ({"measurements": []}, "policy.measurements"),
        ({"measurements": None}, "policy.measurements"),
        ({"measurements": _SET}, "policy.measurements"),
        ({"measurements": [[]]}, "policy.measurement"),
        ({"measurements": [{"pcr0": _PCR, "pcr1": _PCR}]}, "policy.measurement"),
        ({"measurements": [{**_SET, "pcr5": _PCR}]}, "policy.measurement"),
        ({"measurements": [{**_SET, "pcr3": None}]}, "policy.measurement"),
        ({"measurements": [{**_SET, "pcr0": "00" * 48}]}, "policy.zero_measurement"),
        ({"models": "ab" * 32}, "policy.models"),
        ({"models": ["ab"]}, "policy.model"),
        ({"models": [1]}, "policy.model"),
        ({"model_id": ["tiny"]}, "policy.model_id"),
        ({"minimum_model_version": 1.0}, "policy.minimum_model_version"),
        ({"extra_roots": {}}, "policy.extra_roots"),
        ({"extra_roots": [1]}, "policy.extra_root"),
        ({"extra_roots": ["é"]}, "policy.extra_root"),
        ({"extra_roots": [base64.b64encode(b"nothing").decode()]}, "policy.extra_root"),
        ({"insecure_any_measurement": True}, "policy.insecure"),
        ({"insecure_any_measurement": False}, "policy.insecure"),
        ({"insecure_any_measurement": 1, "measurements": None}, "policy.insecure"),
    ],
)
def test_json_is_read_strictly(change: dict[str, Any], code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(json.dumps({**_GOOD, **change}))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "policy.json"),
        ("[]", "policy.json"),
        ("{", "policy.json"),
        ("[" * 100_000, "policy.json"),
        ('{"version": 1, "version": 1}', "policy.json"),
        (json.dumps(_GOOD) + " " * (1 << 20), "policy.size"),
        ('{"version": 1}', "policy.measurements"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(text)
    assert caught.value.code == code


def test_file_trouble_is_a_policy_error(measurements: Measurements, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.load(tmp_path / "missing.json")
    assert caught.value.code == "policy.read"
    with pytest.raises(PolicyError) as caught:
        Policy(measurements=[measurements]).save(tmp_path)
    assert caught.value.code == "policy.write"
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError) as caught:
        Policy.load(tmp_path / "binary.json")
    assert caught.value.code == "policy.json"


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_a_policy_error(text: str) -> None:
    with pytest.raises(PolicyError):
        Policy.from_json(text)
