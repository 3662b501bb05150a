"""The key policy that is printed: what it says, and what it cannot be made to say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ephemeralml.attestation import Measurements
from ephemeralml.errors import ConfigurationError
from ephemeralml.host.key_policy import check_policy, key_policy

ACCOUNT = "111122223333"
IAM = f"arn:aws:iam::{ACCOUNT}:"
HOST, ADMIN, OWNER = f"{IAM}role/host", f"{IAM}role/admin", f"{IAM}user/owner"


def release(first: int, **more: bytes) -> Measurements:
    pcrs = {f"pcr{index}": bytes([first + index]) * 48 for index in range(3)}
    return Measurements(**pcrs, **more)


def build(**changes: Any) -> dict[str, Any]:
    arguments = {"measurements": [release(1)], "roles": [HOST], "admin": ADMIN, "owner": OWNER, **changes}
    policy: dict[str, Any] = json.loads(key_policy(**arguments))
    return policy


def statements(policy: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["Sid"]: item for item in policy["Statement"]}


def test_a_statement_for_each_release_binds_its_whole_set() -> None:
    two = release(0x10, pcr3=b"\x33" * 48, pcr8=b"\x88" * 48)
    found = statements(build(measurements=[release(1), two]))
    assert found["Release1"]["Condition"] == {
        "StringEqualsIgnoreCase": {
            "kms:RecipientAttestation:ImageSha384": "01" * 48,
            "kms:RecipientAttestation:PCR1": "02" * 48,
            "kms:RecipientAttestation:PCR2": "03" * 48,
        }
    }
    assert found["Release2"]["Condition"]["StringEqualsIgnoreCase"] == {
        "kms:RecipientAttestation:ImageSha384": "10" * 48,
        "kms:RecipientAttestation:PCR1": "11" * 48,
        "kms:RecipientAttestation:PCR2": "12" * 48,
        "kms:RecipientAttestation:PCR3": "33" * 48,
        "kms:RecipientAttestation:PCR8": "88" * 48,
    }
    assert found["DenyUnattestedRelease"]["Condition"] == {
        "StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": ["01" * 48, "10" * 48]}
    }


def test_nobody_gets_more_than_their_part() -> None:
    allowed: dict[str, set[str]] = {}
    for item in build()["Statement"]:
        if item["Effect"] == "Allow":
            for principal in item["Principal"]["AWS"]:
                allowed.setdefault(principal, set()).update(item["Action"])
    assert allowed[HOST] == {"kms:Decrypt", "kms:DescribeKey", "kms:GetKeyPolicy"}
    assert allowed[OWNER] == {"kms:GenerateDataKey"}
    assert not {"kms:Decrypt", "kms:CreateGrant", "kms:ReplicateKey", "kms:GenerateDataKey"} & allowed[ADMIN]
    assert not any("*" in action for actions in allowed.values() for action in actions)


def test_the_encryption_context_binds_wrapping_and_release() -> None:
    found = statements(build(encryption_context={"ephemeralml:model": "tiny"}))
    wanted = {"kms:EncryptionContext:ephemeralml:model": "tiny"}
    assert found["MakeDataKeys"]["Condition"] == {"StringEquals": wanted}
    assert found["Release1"]["Condition"]["StringEquals"] == wanted


def test_what_is_given_twice_is_there_once() -> None:
    assert build(measurements=[release(1)] * 2, roles=[HOST, HOST]) == build()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"measurements": []}, "measurements"),
        ({"roles": []}, "measurements"),
        ({"roles": [f"{IAM}root"]}, "principal"),
        ({"roles": ["*"]}, "principal"),
        ({"roles": [f"{IAM}role/*"]}, "principal"),
        ({"roles": ["arn:aws:sts::111122223333:assumed-role/host/i-1"]}, "principal"),
        ({"admin": "111122223333"}, "principal"),
        ({"admin": f"{ADMIN}\n"}, "principal"),
        ({"owner": ""}, "principal"),
        ({"admin": HOST}, "separation"),
        ({"owner": HOST}, "separation"),
        ({"encryption_context": {"": "x"}}, "context"),
        ({"encryption_context": {"a": "${aws:PrincipalArn}"}}, "context"),
        ({"measurements": [release(index) for index in range(1, 80)]}, "size"),
    ],
)
def test_refuses_what_would_not_protect(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(**changes)
    assert caught.value.code == f"key_policy.{code}"


def test_thirty_releases_fit_and_have_no_hole() -> None:
    releases = [release(index) for index in range(1, 31)]
    policy = json.dumps(build(measurements=releases, encryption_context={"a": "b"}))
    assert not [item for item in check_policy(policy, measurements=releases, account=ACCOUNT) if item.hole]
