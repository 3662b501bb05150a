"""The template's key policy, decided by the local KMS's policy engine: one enclave yes, everything else no."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudformation import ACCOUNT, Stack

from ephemeralml.attestation import Measurements
from ephemeralml.devcloud.kms.conditions import Context
from ephemeralml.devcloud.kms.policy import Effect, KeyPolicy, default_policy
from ephemeralml.host.key_policy import check_policy, key_policy

HOST = f"arn:aws:iam::{ACCOUNT}:role/HostRole"
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:role/key-administrator"
OWNER = f"arn:aws:iam::{ACCOUNT}:user/model-owner"
STRANGER = f"arn:aws:iam::{ACCOUNT}:role/somebody"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/12345678-1234-1234-1234-123456789abc"
A = ("a0" * 48, "a1" * 48, "a2" * 48)
B = ("b0" * 48, "b1" * 48, "b2" * 48)
ZERO = "00" * 48


def attested(pcr0: str, pcr1: str, pcr2: str) -> Context:
    """What KMS reads in a document, in lower case as it does."""
    prefix = "kms:recipientattestation:"
    values = {"imagesha384": pcr0, "pcr0": pcr0, "pcr1": pcr1, "pcr2": pcr2}
    return {f"{prefix}{name}": (value,) for name, value in values.items()}


def decide(stack: Stack, *, action: str, principal: str = HOST, context: Context | None = None, more: Any = ()) -> bool:
    document = stack.properties("ModelKey")["KeyPolicy"]
    document["Statement"] += more
    policy = KeyPolicy.parse(json.dumps(document))
    effect = policy.decide(principal=principal, action=f"kms:{action}", resource=KEY, context=context or {})
    return effect is Effect.ALLOW


def test_the_right_enclave_gets_the_key(stack: Stack) -> None:
    assert decide(stack, action="Decrypt", context=attested(*A))


WRONG = {
    "no attestation at all": {},
    "another image": attested(B[0], A[1], A[2]),
    "another kernel": attested(A[0], B[1], A[2]),
    "another application": attested(A[0], A[1], B[2]),
    "another release": attested(*B),
    "debug mode": attested(ZERO, ZERO, ZERO),
    "registers in each other's place": attested(A[1], A[0], A[2]),
    "PCR0 alone": {"kms:recipientattestation:imagesha384": (A[0],)},
    "all but PCR0": {name: value for name, value in attested(*A).items() if name[-4:] in {"pcr1", "pcr2"}},
    "PCR0 cut short": attested(A[0][:-2], A[1], A[2]),
    "a pattern for a value": attested("*", "*", "*"),
}


@pytest.mark.parametrize("context", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_enclave_does_not(stack: Stack, context: Context) -> None:
    assert not decide(stack, action="Decrypt", context=context)


def test_two_releases_get_the_key_while_one_replaces_the_other(rolling: Stack) -> None:
    assert decide(rolling, action="Decrypt", context=attested(*A))
    assert decide(rolling, action="Decrypt", context=attested(*B))


@pytest.mark.parametrize("mixed", [(A[0], B[1], B[2]), (A[0], A[1], B[2]), (B[0], A[1], B[2]), (B[0], B[1], A[2])])
def test_registers_of_two_releases_never_mix(rolling: Stack, mixed: tuple[str, str, str]) -> None:
    assert not decide(rolling, action="Decrypt", context=attested(*mixed))


@pytest.mark.parametrize("principal", [ADMINISTRATOR, OWNER, STRANGER, f"arn:aws:iam::{ACCOUNT}:root"])
def test_nobody_but_the_host_decrypts_attested_or_not(stack: Stack, principal: str) -> None:
    assert not decide(stack, action="Decrypt", principal=principal)
    assert not decide(stack, action="Decrypt", principal=principal, context=attested(*A))


@pytest.mark.parametrize(
    "action",
    [
        *("CreateGrant", "DisableKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
        *("ImportKeyMaterial", "PutKeyPolicy", "ReEncryptFrom", "ReEncryptTo", "ReplicateKey", "ScheduleKeyDeletion"),
    ],
)
def test_the_host_does_nothing_but_decrypt_and_read(stack: Stack, action: str) -> None:
    assert not decide(stack, action=action, context=attested(*A))


def test_each_does_its_own_and_not_the_others(stack: Stack) -> None:
    assert decide(stack, action="GenerateDataKey", principal=OWNER)
    assert not decide(stack, action="PutKeyPolicy", principal=OWNER)
    assert decide(stack, action="PutKeyPolicy", principal=ADMINISTRATOR)
    assert not decide(stack, action="GenerateDataKey", principal=ADMINISTRATOR)
    assert not decide(stack, action="CreateGrant", principal=ADMINISTRATOR)
    # So that `doctor` and a refusal can say what is wrong.
    assert decide(stack, action="DescribeKey")
    assert decide(stack, action="GetKeyPolicy")


def test_a_statement_for_the_account_opens_nothing_to_the_unattested(stack: Stack) -> None:
    root = json.loads(default_policy(ACCOUNT))["Statement"]
    # The attack: without the Deny, the console's default statement gives the key to every administrator.
    assert decide(stack, action="PutKeyPolicy", principal=STRANGER, more=root)
    assert not decide(stack, action="Decrypt", principal=STRANGER, more=root)
    assert not decide(stack, action="ReEncryptFrom", principal=STRANGER, more=root)


def test_it_is_the_policy_that_kms_policy_writes(rolling: Stack) -> None:
    written = key_policy(
        measurements=[Measurements(pcr0=p[0], pcr1=p[1], pcr2=p[2]) for p in (A, B)],
        roles=[HOST],
        admin=ADMINISTRATOR,
        owner=OWNER,
    )
    policy = rolling.properties("ModelKey")["KeyPolicy"]
    assert _plain(policy) == _plain(json.loads(written))


def test_kms_check_finds_no_hole_in_it(rolling: Stack) -> None:
    policy = json.dumps(rolling.properties("ModelKey")["KeyPolicy"])
    releases = [Measurements(pcr0=p[0], pcr1=p[1], pcr2=p[2]) for p in (A, B)]
    for measured, ok in ((releases, True), (releases[:1], False)):
        found = check_policy(policy, measurements=measured, account=ACCOUNT, roles=[HOST])
        assert ok is not any(item.hole for item in found)


def _plain(value: Any) -> Any:
    """One form for what IAM takes as the same: a list of one, and hex in either case."""
    if isinstance(value, dict):
        return {name: item if name == "Sid" else _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return _plain(value[0]) if len(value) == 1 and isinstance(value[0], str) else [_plain(item) for item in value]
    return value.lower() if len(value) == 96 else value
