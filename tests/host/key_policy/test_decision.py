"""What a policy says to one release, beside what the local KMS does with the same request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ephemeralml.attestation import Measurements
from ephemeralml.host.key_policy import Release, decide, key_policy

HOST = "arn:aws:iam::111122223333:role/path/host"
IMAGE = Measurements(pcr0=b"\1" * 48, pcr1=b"\2" * 48, pcr2=b"\3" * 48)
OTHER = Measurements(pcr0=b"\4" * 48, pcr1=b"\2" * 48, pcr2=b"\3" * 48)
PCR0 = "kms:RecipientAttestation:ImageSha384"
RELEASE = Release(
    caller="arn:aws:sts::111122223333:assumed-role/host/i-0", measurements=IMAGE, context={"model": "MiniLM"}
)


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Resource": "*", **item} for item in statements]})


def allow(principal: object = None, **conditions: dict[str, Any]) -> dict[str, Any]:
    who = principal or {"AWS": HOST}
    return {"Effect": "Allow", "Principal": who, "Action": "kms:Decrypt", "Condition": conditions}


def deny(**conditions: dict[str, Any]) -> dict[str, Any]:
    return {"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Condition": conditions}


IT = {PCR0: IMAGE.pcr0.hex()}
NOT_IT = {PCR0: OTHER.pcr0.hex()}


def test_the_policy_of_kms_policy_is_for_its_images_and_roles_alone() -> None:
    text = key_policy(measurements=[IMAGE], roles=[HOST], admin=f"{HOST}-admin", owner=f"{HOST}-owner")
    for caller, measurements, answer in (
        (RELEASE.caller, IMAGE, True),
        (HOST, IMAGE, True),
        (RELEASE.caller, OTHER, False),
        (f"{HOST}-owner", IMAGE, False),
        ("arn:aws:iam::444455556666:role/host", IMAGE, False),
    ):
        assert decide(text, Release(caller=caller, measurements=measurements, context={})) is answer


@pytest.mark.parametrize(
    ("statements", "answer"),
    [
        ([allow()], True),
        ([allow("*", StringEquals=IT)], True),
        ([allow(StringEquals=NOT_IT)], False),
        ([allow(StringEqualsIgnoreCase={PCR0: IMAGE.pcr0.hex().upper()})], True),
        # KMS compares the hex digits as they are, in lower case.
        ([allow(StringEquals={PCR0: (b"\xab" * 48).hex().upper()})], False),
        ([allow(StringLike={PCR0: "0101*"})], True),
        ([allow(StringEquals={"kms:EncryptionContext:model": "MiniLM"})], True),
        ([allow(StringEquals={"kms:EncryptionContext:model": "other"})], False),
        ([allow({"AWS": f"{HOST}-other"})], False),
        ([allow({"Service": "s3.amazonaws.com"})], False),
        # What only the account, or AWS, can tell.
        ([allow({"AWS": "arn:aws:iam::111122223333:root"})], None),
        ([allow({"AWS": "111122223333"})], None),
        ([allow({"AWS": "444455556666"})], False),
        ([allow(Bool={"aws:SecureTransport": "true"})], None),
        ([allow(StringEquals={"kms:RecipientAttestation:PCR4": "00"})], None),
        ([allow(StringEquals=NOT_IT, Bool={"aws:SecureTransport": "true"})], False),
        # A Deny decides, where it applies.
        ([allow(), deny()], False),
        ([allow(), deny(StringNotEquals=IT)], True),
        ([allow(), deny(StringNotEqualsIgnoreCase=NOT_IT)], False),
        ([allow(), deny(StringNotLike={PCR0: "01*"})], True),
        ([allow(), deny(StringNotEqualsIfExists=NOT_IT)], False),
        ([allow(), deny(Bool={"aws:SecureTransport": "false"})], None),
        ([allow(StringEquals=NOT_IT), deny(Bool={"aws:SecureTransport": "false"})], False),
        ([allow(), {**deny(), "Principal": {"AWS": "111122223333"}}], False),
        ([allow(), {**deny(), "Action": "kms:Encrypt"}], True),
        ([allow(), {"Effect": "Deny", "NotPrincipal": {"AWS": HOST}, "Action": "kms:*"}], True),
        ([{**allow(), "Action": "kms:GetKeyPolicy"}], False),
    ],
)
def test_a_statement(statements: list[dict[str, Any]], answer: bool | None) -> None:
    assert decide(policy(*statements), RELEASE) is answer
