"""Key policies: what is malformed, and who may do what under which conditions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.conditions import Context
from ephemeralml.devcloud.kms.policy import MAX_POLICY_BYTES, Effect, KeyPolicy, default_policy

ACCOUNT = "111122223333"
OWNER = f"arn:aws:iam::{ACCOUNT}:user/owner"
HOST = f"arn:aws:iam::{ACCOUNT}:role/host"
STRANGER = "arn:aws:iam::999999999999:user/stranger"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1"
PCR0 = "ab" * 48
ATTESTED = {"kms:recipientattestation:imagesha384": (PCR0,), "kms:recipientattestation:pcr8": ("cd" * 48,)}


def statement(**elements: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"AWS": HOST}, "Action": "kms:Decrypt", "Resource": "*", **elements}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def decide(
    *statements: dict[str, Any],
    principal: str = HOST,
    action: str = "kms:Decrypt",
    context: Context | None = None,
) -> Effect | None:
    policy = KeyPolicy.parse(document(*statements))
    return policy.decide(principal=principal, action=action, resource=KEY, context=context or {})


@pytest.mark.parametrize(
    ("principal", "listed", "allowed"),
    [
        (HOST, {"AWS": HOST}, True),
        (HOST, {"AWS": [OWNER, HOST]}, True),
        (OWNER, {"AWS": HOST}, False),
        (STRANGER, "*", True),
        (STRANGER, {"AWS": "*"}, True),
        (HOST, {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, True),
        (HOST, {"AWS": ACCOUNT}, True),
        (STRANGER, {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, False),
        (f"{HOST}2", {"AWS": HOST}, False),
    ],
)
def test_principal(principal: str, listed: object, *, allowed: bool) -> None:
    assert decide(statement(Principal=listed), principal=principal) == (Effect.ALLOW if allowed else None)


@pytest.mark.parametrize(
    ("listed", "allowed"),
    [
        ("kms:Decrypt", True),
        ("KMS:decrypt", True),
        ("kms:*", True),
        ("*", True),
        ("kms:Dec*", True),
        ("kms:Decryp?", True),
        (["kms:Encrypt", "kms:Decrypt"], True),
        ("kms:Encrypt", False),
        ("kms:GenerateDataKey*", False),
        ("kms:[D]ecrypt", False),
    ],
)
def test_action(listed: object, *, allowed: bool) -> None:
    assert decide(statement(Action=listed)) == (Effect.ALLOW if allowed else None)


def test_resource_other_than_this_key_does_not_apply() -> None:
    assert decide(statement(Resource=KEY)) is Effect.ALLOW
    assert decide(statement(Resource=KEY + "2")) is None


def test_default_is_deny_and_an_explicit_deny_wins_in_either_order() -> None:
    deny = statement(Effect="Deny", Principal="*")
    assert decide(statement(), principal=OWNER) is None
    assert decide(statement(), deny) is Effect.DENY
    assert decide(deny, statement()) is Effect.DENY


def test_account_root_bypasses_the_conditions_of_other_statements() -> None:
    conditioned = statement(Condition={"StringEquals": {"kms:RecipientAttestation:ImageSha384": PCR0}})
    root = json.loads(default_policy(ACCOUNT))["Statement"][0]
    assert decide(conditioned) is None
    assert decide(conditioned, root) is Effect.ALLOW


IMAGE = "kms:RecipientAttestation:ImageSha384"
APP = {"kms:encryptioncontext:app": ("demo",), "kms:encryptioncontextkeys": ("App", "Version")}


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {IMAGE: PCR0}}, ATTESTED, True),
        ({"StringEquals": {IMAGE.lower(): PCR0}}, ATTESTED, True),
        ({"StringEquals": {IMAGE: ["00", PCR0]}}, ATTESTED, True),
        ({"StringEquals": {IMAGE: PCR0.upper()}}, ATTESTED, False),
        ({"StringEqualsIgnoreCase": {IMAGE: PCR0.upper()}}, ATTESTED, True),
        ({"StringEqualsIgnoreCase": {IMAGE: "00" * 48}}, ATTESTED, False),
        ({"StringEquals": {IMAGE: PCR0}}, {}, False),
        ({"StringNotEquals": {IMAGE: PCR0}}, ATTESTED, False),
        ({"StringNotEquals": {IMAGE: "00"}}, ATTESTED, True),
        ({"StringNotEquals": {IMAGE: PCR0}}, {}, True),
        ({"StringNotEqualsIgnoreCase": {IMAGE: PCR0.upper()}}, ATTESTED, False),
        ({"StringLike": {IMAGE: "abab*"}}, ATTESTED, True),
        ({"StringLike": {IMAGE: "[a]*"}}, ATTESTED, False),
        ({"StringNotLike": {IMAGE: "abab*"}}, ATTESTED, False),
        ({"StringEquals": {"kms:RecipientAttestation:PCR8": "cd" * 48}}, ATTESTED, True),
        ({"StringEquals": {"kms:RecipientAttestation:PCR3": "cd" * 48}}, ATTESTED, False),
        ({"StringEquals": {IMAGE: PCR0, "kms:RecipientAttestation:PCR8": "00"}}, ATTESTED, False),
        ({"StringEquals": {IMAGE: PCR0}, "StringLike": {"kms:RecipientAttestation:PCR8": "0*"}}, ATTESTED, False),
        ({"Null": {IMAGE: "false"}}, ATTESTED, True),
        ({"Null": {IMAGE: False}}, {}, False),
        ({"Null": {IMAGE: "true"}}, {}, True),
        ({"StringEquals": {"kms:EncryptionContext:App": "demo"}}, APP, True),
        ({"StringEquals": {"kms:EncryptionContext:App": "Demo"}}, APP, False),
        ({"StringEquals": {"kms:EncryptionContext:Other": "demo"}}, APP, False),
        ({"StringEquals": {"kms:EncryptionContext:a:b": "1"}}, {"kms:encryptioncontext:a:b": ("1",)}, True),
        ({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "App"}}, APP, True),
        ({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "app"}}, APP, False),
        ({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "App"}}, {}, False),
        ({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["App", "Version"]}}, APP, True),
        ({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "App"}}, APP, False),
        ({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "App"}}, {}, True),
        ({"Bool": {"kms:EncryptionContext:App": True}}, {"kms:encryptioncontext:app": ("TRUE",)}, True),
        ({"Bool": {"kms:EncryptionContext:App": "true"}}, APP, False),
        ({"NumericEquals": {IMAGE: "1"}}, ATTESTED, False),
        ({"StringEqualsIfExists": {IMAGE: PCR0}}, ATTESTED, True),
        ({"StringEqualsIfExists": {IMAGE: "00"}}, ATTESTED, False),
        ({"StringEqualsIfExists": {IMAGE: PCR0}}, {}, True),
        ({"StringNotEqualsIfExists": {IMAGE: PCR0}}, {}, True),
        ({"StringLikeIfExists": {IMAGE: "cd*"}}, ATTESTED, False),
        ({"BoolIfExists": {"kms:EncryptionContext:App": "true"}}, {}, True),
        ({"NullIfExists": {IMAGE: "true"}}, {}, False),
        ({"StringEquals": {"aws:SourceIp": "10.0.0.1"}}, ATTESTED, False),
        ({"StringEquals": {"kms:RecipientAttestation:PCR32": PCR0}}, ATTESTED, False),
        ({"StringNotEquals": {"kms:Unknown": "x"}}, ATTESTED, False),
    ],
)
def test_condition(condition: dict[str, Any], context: Context, *, holds: bool) -> None:
    assert decide(statement(Condition=condition), context=context) == (Effect.ALLOW if holds else None)


@pytest.mark.parametrize(
    "condition", [{"NumericEquals": {IMAGE: "1"}}, {"StringNotEquals": {"aws:SourceIp": "10.0.0.1"}}]
)
def test_deny_that_cannot_be_evaluated_is_malformed(condition: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="never deny") as caught:
        KeyPolicy.parse(document(statement(Effect="Deny", Condition=condition)))
    assert caught.value.type == "MalformedPolicyDocumentException"


def test_deny_unless_attested_denies_without_a_recipient() -> None:
    deny = statement(Effect="Deny", Principal="*", Condition={"StringNotEqualsIgnoreCase": {IMAGE: PCR0}})
    assert decide(statement(), deny) is Effect.DENY
    assert decide(statement(), deny, context=ATTESTED) is Effect.ALLOW


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 20000,
        '{"Statement": []}',
        '{"Version": "2020-01-01", "Statement": []}',
        '{"Statement": [], "Statement": []}',
        '{"Statement": [1]}',
        '{"Statement": null}',
        json.dumps({"Statement": statement(), "Extra": 1}),
        document(statement(Effect="allow")),
        document(statement(Effect=["Allow"])),
        document(statement(NotAction="kms:Encrypt")),
        document({"Effect": "Allow", "Action": "kms:*", "Resource": "*"}),
        document({"Effect": "Allow", "Action": "kms:*", "Principal": "*"}),
        document(statement(Action=[])),
        document(statement(Action=1)),
        document(statement(Action="s3:GetObject")),
        document(statement(Resource=[""])),
        document(statement(Principal="arn:aws:iam::111122223333:root")),
        document(statement(Principal={"Service": "ec2.amazonaws.com"})),
        document(statement(Principal={"AWS": HOST, "Service": "x"})),
        document(statement(Principal={"AWS": []})),
        document(statement(Principal={"AWS": "arn:aws:iam::111122223333:user/*"})),
        document(statement(Principal={"AWS": "arn:aws:iam::111122223333:user/" + "a" * 600})),
        document(statement(Condition=[])),
        document(statement(Condition={"StringEquals": {}})),
        document(statement(Condition={"StringEquals": "x"})),
        document(statement(Condition={"StringEquals": {IMAGE: []}})),
        document(statement(Condition={"StringEquals": {IMAGE: 1}})),
        document(statement(Condition={"StringEquals": {IMAGE: "${aws:username}"}})),
        document(statement(Condition={"Null": {IMAGE: "maybe"}})),
        document(statement(Condition={"BoolIfExists": {IMAGE: "maybe"}})),
        document(statement(Condition={"Null": {IMAGE: ["true", "false"]}})),
        document(statement(Condition={"ForAnyValue:Null": {IMAGE: "true"}})),
        document(statement(Condition={"ForSome:StringEquals": {IMAGE: "x"}})),
        document(statement(Condition={"ForAllValues:StringEquals": {IMAGE: PCR0}})),
        document(statement(Condition={"StringEquals": {"kms:EncryptionContextKeys": "App"}})),
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        KeyPolicy.parse(text)
    assert caught.value.type == "MalformedPolicyDocumentException"


def test_too_long() -> None:
    with pytest.raises(ApiError) as caught:
        KeyPolicy.parse(" " * (MAX_POLICY_BYTES + 1))
    assert caught.value.type == "LimitExceededException"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["Allow", "*", "kms:*", HOST]),
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


@given(st.lists(JSON, max_size=3))
def test_any_json_is_a_policy_or_an_api_error(statements: list[Any]) -> None:
    try:
        policy = KeyPolicy.parse(json.dumps({"Statement": statements}))
    except ApiError:
        return
    policy.decide(principal=HOST, action="kms:Decrypt", resource=KEY, context=ATTESTED)
