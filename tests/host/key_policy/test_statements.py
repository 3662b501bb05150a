"""Key policies of every making, read: malformed ones are refused, and what is not understood binds nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import Measurements
from ephemeralml.errors import PolicyError
from ephemeralml.host.key_policy import check_policy
from ephemeralml.host.key_policy.statements import MAX_POLICY_BYTES, read_statements

PCR = "ab" * 48
IMAGE = "kms:RecipientAttestation:ImageSha384"
RELEASE = Measurements(pcr0=PCR, pcr1="cd" * 48, pcr2="ef" * 48)


def statement(**elements: Any) -> dict[str, Any]:
    given = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", **elements}
    return {name: value for name, value in given.items() if value is not None}


MALFORMED: list[dict[str, Any]] = [
    {"Effect": "allow"},
    {"Effect": ["Allow"]},
    {"Effect": None},
    {"Principal": None},
    {"Principal": 7},
    {"Principal": {}},
    {"Principal": {"AWS": []}},
    {"NotPrincipal": "*"},
    {"Action": None},
    {"Action": []},
    {"Action": [7]},
    {"NotAction": "kms:*"},
    {"Condition": 7},
    {"Condition": {"StringEquals": {}}},
    {"Condition": {"StringEquals": {IMAGE: []}}},
    {"Condition": {"StringEquals": {IMAGE: {}}}},
    {"Unknown": 1},
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "[" * 20000,
        "{}",
        '{"Statement": []}',
        '{"Statement": null}',
        '{"Statement": [7]}',
        '{"Statement": {}, "Statement": {}}',
        json.dumps({"Statement": statement(), "More": 1}),
        *(json.dumps({"Statement": statement(**changes)}) for changes in MALFORMED),
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read_statements(text)
    assert caught.value.code == "key_policy.malformed"


def test_too_long() -> None:
    with pytest.raises(PolicyError):
        read_statements(" " * (MAX_POLICY_BYTES + 1))


@pytest.mark.parametrize(
    ("listed", "covered"),
    [
        ({"Action": "kms:Decrypt"}, True),
        ({"Action": "KMS:DECRYPT"}, True),
        ({"Action": ["kms:Encrypt", "kms:D?crypt"]}, True),
        ({"Action": "*"}, True),
        ({"Action": "kms:[D]ecrypt"}, False),
        ({"Action": "kms:Encrypt"}, False),
        ({"Action": None, "NotAction": "kms:Encrypt"}, True),
        ({"Action": None, "NotAction": "kms:De*"}, False),
    ],
)
def test_actions(listed: dict[str, Any], *, covered: bool) -> None:
    (read,) = read_statements(json.dumps({"Statement": statement(**listed)}))
    assert read.covers("Decrypt") is covered


@pytest.mark.parametrize(
    ("condition", "registers"),
    [
        ({"StringEquals": {IMAGE: PCR}}, {0: {PCR}}),
        ({"StringEquals": {"KMS:recipientattestation:imageSHA384": PCR.upper()}}, {0: {PCR}}),
        ({"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": [PCR, "00"]}}, {0: {PCR, "00"}}),
        ({"StringEquals": {IMAGE: [PCR, "00"]}, "StringLike": {IMAGE: [PCR]}}, {0: {PCR}}),
        # Conditions that exclude each other hide no value.
        ({"StringEquals": {IMAGE: "00", IMAGE.upper().replace("KMS", "kms"): PCR}}, {0: {PCR, "00"}}),
        ({"StringLike": {"kms:RecipientAttestation:PCR31": PCR}}, {31: {PCR}}),
        ({"StringLike": {IMAGE: [PCR, "*"]}}, {}),
        ({"StringLike": {IMAGE: "a?"}}, {}),
        ({"StringEqualsIfExists": {IMAGE: PCR}}, {}),
        ({"ForAllValues:StringEquals": {IMAGE: PCR}}, {}),
        ({"ForAnyValue:StringEquals": {IMAGE: PCR}}, {}),
        ({"StringNotEquals": {IMAGE: PCR}}, {}),
        ({"stringequals": {IMAGE: PCR}}, {}),
        ({"StringEquals": {"kms:RecipientAttestation:PCR32": PCR}}, {}),
        ({"StringEquals": {"kms:RecipientAttestation:NitroTPMPCR4": PCR}}, {}),
        ({"Null": {IMAGE: False}}, {}),
    ],
)
def test_registers(condition: dict[str, Any], registers: dict[int, set[str]]) -> None:
    (read,) = read_statements(json.dumps({"Statement": statement(Condition=condition)}))
    assert read.registers == registers


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["Allow", "*", "kms:*", PCR]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Effect", "Principal", "Action", "Resource", "Condition", "AWS", "StringEquals", IMAGE]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON | st.builds(lambda more: statement(**more), st.dictionaries(
    st.sampled_from(["Principal", "Action", "Condition", "Sid"]), JSON
)), max_size=3))  # fmt: skip
def test_any_json_is_checked_or_refused(statements: list[Any]) -> None:
    try:
        found = check_policy(json.dumps({"Statement": statements}), measurements=[RELEASE], account="111122223333")
    except PolicyError:
        return
    assert all(item.message for item in found)


@given(st.text(max_size=64))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        read_statements(text)
