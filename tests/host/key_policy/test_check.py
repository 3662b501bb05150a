"""Each hole by its name. Those that the local KMS can be attacked through are attacked in test_printed_policy.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from ephemeralml.attestation import Measurements
from ephemeralml.errors import KeyReleaseError
from ephemeralml.host.key_policy import Finding, check_key, check_policy, key_policy
from ephemeralml.host.kms_keys import Grant, KmsKeys

ACCOUNT = "111122223333"
IAM = f"arn:aws:iam::{ACCOUNT}:"
HOST, ADMIN, OWNER = f"{IAM}role/path/host", f"{IAM}role/admin", f"{IAM}user/owner"
SESSION = "arn:aws:sts::111122223333:assumed-role/host/i-0123456789abcdef0"
ATTESTATION = "kms:RecipientAttestation:"
KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/12345678-1234-1234-1234-123456789abc"
ZERO = "0" * 96


def release(first: int, **more: bytes) -> Measurements:
    return Measurements(**{f"pcr{index}": bytes([first + index]) * 48 for index in range(3)}, **more)


ONE, TWO = release(0x10), release(0x20)
PRINTED = key_policy(measurements=[ONE, TWO], roles=[HOST], admin=ADMIN, owner=OWNER)


def registers(item: Measurements = ONE, **changes: object) -> dict[str, object]:
    whole = {f"{ATTESTATION}PCR{index}": value.hex() for index, value in item.registers.items()}
    return {**whole, **{ATTESTATION + name: value for name, value in changes.items()}}


def statement(**elements: Any) -> dict[str, Any]:
    given = {
        "Effect": "Allow",
        "Principal": {"AWS": HOST},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {"StringEquals": registers()},
        **elements,
    }
    return {name: value for name, value in given.items() if value is not None}


def found(*statements: dict[str, Any], measurements: tuple[Measurements, ...] = (ONE, TWO)) -> list[Finding]:
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return check_policy(text, measurements=measurements, account=ACCOUNT, roles=[HOST])


def holes(*statements: dict[str, Any], measurements: tuple[Measurements, ...] = (ONE, TWO)) -> set[str]:
    return {item.code for item in found(*statements, measurements=measurements) if item.hole}


def test_a_statement_for_each_release_has_no_hole() -> None:
    assert not holes(statement(), statement(Condition={"StringEqualsIgnoreCase": registers(TWO)}))


@pytest.mark.parametrize(
    ("elements", "codes"),
    [
        # Whom.
        ({"Principal": "*"}, {"anybody"}),
        ({"Principal": {"AWS": "*"}}, {"anybody"}),
        ({"Principal": {"AWS": f"{IAM}root"}}, {"anybody"}),
        ({"Principal": {"AWS": [HOST, "111122223333"]}}, {"anybody"}),
        ({"Principal": {"AWS": f"{IAM}role/*"}}, {"anybody"}),
        ({"Principal": {"Service": "ec2.amazonaws.com"}}, {"anybody"}),
        ({"Principal": {"Federated": "accounts.example.com"}}, {"anybody"}),
        ({"Principal": None, "NotPrincipal": {"AWS": OWNER}}, {"not_principal"}),
        ({"Principal": {"AWS": OWNER}}, {"other_principal"}),
        ({"Principal": {"AWS": f"{IAM}role/host2"}}, {"other_principal"}),
        ({"Principal": {"AWS": "arn:aws:iam::999999999999:role/host"}}, {"other_principal"}),
        ({"Principal": {"AWS": SESSION}}, set()),
        # What.
        ({"Action": None, "NotAction": "kms:Encrypt"}, {"not_action", "reencrypt", "grant", "replica", "govern"}),
        ({"Action": ["kms:Decrypt", "kms:ReEncrypt*"]}, {"reencrypt"}),
        ({"Action": "kms:ReEncryptFrom"}, {"reencrypt"}),
        ({"Action": "kms:ReEncryptTo", "Condition": {}}, set()),
        ({"Action": "kms:CreateGrant"}, {"grant"}),
        ({"Action": "kms:Create*", "Principal": {"AWS": ADMIN}}, {"grant"}),
        ({"Action": "kms:ReplicateKey", "Principal": {"AWS": ADMIN}}, {"replica"}),
        ({"Action": "kms:PutKeyPolicy"}, {"govern"}),
        ({"Action": "kms:Put*", "Principal": {"AWS": SESSION}}, {"govern"}),
        ({"Action": "kms:ScheduleKeyDeletion"}, {"govern"}),
        ({"Action": "kms:GenerateDataKey*", "Condition": {}}, {"unattested"}),
        ({"Action": "kms:GenerateDataKey*"}, set()),
        ({"Action": "kms:GenerateDataKey", "Condition": {}, "Principal": {"AWS": OWNER}}, set()),
        ({"Action": "kms:GenerateDataKey", "Condition": {}, "Principal": "*"}, {"anybody", "unattested"}),
        ({"Action": "kms:GenerateDataKeyWithoutPlaintext", "Condition": {}}, set()),
        ({"Action": "kms:DeriveSharedSecret", "Condition": {}}, {"unattested"}),
        ({"Action": ["kms:DescribeKey", "kms:GetKeyPolicy"], "Condition": {}}, set()),
        # Attested how.
        ({"Condition": {}}, {"unattested"}),
        ({"Condition": {"StringEqualsIfExists": registers()}}, {"if_exists"}),
        ({"Condition": {"StringEquals": registers(), "StringLikeIfExists": registers()}}, {"if_exists"}),
        ({"Condition": {"ForAllValues:StringEquals": registers()}}, {"unattested"}),
        ({"Condition": {"ForAnyValue:StringEquals": registers()}}, {"unattested"}),
        ({"Condition": {"StringNotEquals": registers()}}, {"unattested"}),
        ({"Condition": {"Null": {f"{ATTESTATION}PCR0": "false"}}}, {"unattested"}),
        ({"Condition": {"StringLike": registers(PCR0="*")}}, {"wildcard", "no_image"}),
        ({"Condition": {"StringLike": {f"{ATTESTATION}ImageSha384": "1?"}}}, {"wildcard"}),
        ({"Condition": {"StringLike": registers()}}, set()),
        ({"Condition": {"StringEquals": {f"{ATTESTATION}NitroTPMPCR4": "1"}}}, {"unattested"}),
        ({"Condition": {"StringEquals": {f"{ATTESTATION}PCR1": "11" * 48}}}, {"no_image"}),
        # Which enclave.
        ({"Condition": {"StringEquals": registers(PCR0=ZERO)}}, {"debug"}),
        ({"Condition": {"StringEquals": registers(PCR0=["10" * 48, ZERO])}}, {"debug"}),
        ({"Condition": {"StringEquals": registers(PCR0="ff" * 48)}}, {"unknown_release"}),
        ({"Condition": {"StringEquals": registers(PCR2=["12" * 48, "ff" * 48])}}, {"unknown_release"}),
        ({"Condition": {"StringEquals": registers(PCR0="${aws:PrincipalTag/pcr}")}}, {"unknown_release"}),
        ({"Condition": {"StringEquals": registers(PCR2="22" * 48)}}, {"mixed_sets"}),
        (
            {"Condition": {"StringEquals": registers(PCR0=["10" * 48, "20" * 48], PCR1=["11" * 48, "21" * 48])}},
            {"mixed_sets"},
        ),
        ({"Condition": {"StringEquals": {f"{ATTESTATION}ImageSha384": ["10" * 48, "20" * 48]}}}, {"partial_set"}),
        (
            {"Condition": {"StringEquals": {f"{ATTESTATION}PCR0": "10" * 48, f"{ATTESTATION}PCR1": "11" * 48}}},
            {"partial_set"},
        ),
        ({"Condition": {"StringEquals": registers(PCR8="88" * 48)}}, set()),
    ],
)
def test_hole(elements: dict[str, Any], codes: set[str]) -> None:
    assert holes(statement(**elements)) == codes


def test_a_register_two_releases_share_does_not_mix_them() -> None:
    twin = Measurements(pcr0=b"\x77" * 48, pcr1=ONE.pcr1, pcr2=ONE.pcr2)
    both = statement(Condition={"StringEquals": registers(PCR0=["10" * 48, "77" * 48])})
    assert not holes(both, measurements=(ONE, twin))
    assert holes(both) == {"unknown_release"}


def test_more_combinations_than_can_be_tried_mix() -> None:
    many = tuple(release(index) for index in range(1, 41))
    lists: dict[str, Any] = {f"PCR{index}": [item.registers[index].hex() for item in many] for index in range(3)}
    assert holes(statement(Condition={"StringEquals": registers(**lists)}), measurements=many) == {"mixed_sets"}


def test_the_signer_of_a_release_is_part_of_its_set() -> None:
    signed = release(0x10, pcr8=b"\x88" * 48)
    assert holes(statement(), measurements=(signed,)) == {"partial_set"}
    assert not holes(statement(Condition={"StringEquals": registers(signed)}), measurements=(signed,))


def test_a_deny_excuses_nothing() -> None:
    deny = statement(Effect="Deny", Principal="*", Condition={"StringNotEquals": registers()})
    assert holes(statement(Condition={}), deny) == {"unattested"}


def test_who_decrypts_is_a_host_where_no_role_is_given() -> None:
    govern = statement(Action="kms:PutKeyPolicy", Condition={})
    text = json.dumps({"Statement": [statement(), govern]})
    assert [item.code for item in check_policy(text, measurements=[ONE], account=ACCOUNT)] == ["govern"]


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"Condition": {"StringEquals": {**registers(), "kms:ViaService": "s3.us-east-1.amazonaws.com"}}}, "condition"),
        ({"Condition": {"StringEquals": registers(), "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, "condition"),
        ({"Action": "kms:PutKeyPolicy", "Principal": {"AWS": ADMIN}, "Condition": {}}, "governor"),
        ({"Principal": {"AWS": [HOST, "AROAEXAMPLEEXAMPLE123"]}}, "deleted_principal"),
        ({"Condition": {"StringEquals": registers(TWO)}}, "not_released"),
    ],
)
def test_note(elements: dict[str, Any], code: str) -> None:
    assert code in {item.code for item in found(statement(**elements)) if not item.hole}


@pytest.mark.parametrize("action", ["kms:PutKeyPolicy", "kms:Put*", "kms:*Policy"])
@pytest.mark.parametrize(
    "stranger",
    [
        "arn:aws:iam::999999999999:role/admin",
        "arn:aws:iam::999999999999:user/admin",
        "arn:aws:sts::999999999999:assumed-role/admin/session",
    ],
)
def test_who_may_change_the_policy_from_another_account_is_a_hole(action: str, stranger: str) -> None:
    govern = statement(Action=action, Principal={"AWS": [ADMIN, stranger]}, Condition={})
    assert holes(statement(), govern) == {"foreign_governor"}
    (hole,) = [item for item in found(govern) if item.hole]
    assert stranger in hole.message


def test_a_host_does_not_make_its_account_the_keys() -> None:
    stranger = "arn:aws:iam::999999999999:role/admin"
    govern = statement(Action="kms:PutKeyPolicy", Principal={"AWS": [ADMIN, stranger]}, Condition={})
    # Where no role is given, whoever decrypts is a host.
    text = json.dumps({"Statement": [statement(Principal={"AWS": stranger.replace("admin", "host")}), govern]})
    strangers = [item for item in check_policy(text, measurements=[ONE], account=ACCOUNT) if item.hole]
    assert [item.code for item in strangers] == ["foreign_governor"]
    assert stranger in strangers[0].message


def test_a_key_of_another_account_than_its_hosts_is_governed_from_its_own() -> None:
    text = key_policy(measurements=[ONE], roles=[HOST], admin="arn:aws:iam::444455556666:role/admin", owner=OWNER)
    for account, holes_found in (("444455556666", []), (ACCOUNT, ["foreign_governor"])):
        found = check_policy(text, measurements=[ONE], account=account, roles=[HOST])
        assert [item.code for item in found if item.hole] == holes_found


def test_an_unknown_condition_binds_nothing() -> None:
    alone = statement(Condition={"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}})
    assert holes(alone) == {"unattested"}


def test_findings_say_where() -> None:
    (hole,) = [item for item in found(statement(Sid="Mine"), statement(Condition={}, Sid="Open")) if item.hole]
    assert hole.where == "statement 2 (Open)"
    assert "Decrypt" in hole.message


@dataclass
class Keys:
    """A live key, in place of `KmsKeys`: its answers are those of the wire tests."""

    text: str = PRINTED
    shared: str | None = None
    metadata: Mapping[str, Any] = field(
        default_factory=lambda: {"Origin": "AWS_KMS", "MultiRegion": False, "KeyState": "Enabled"}
    )
    listed: list[Grant] | None = field(default_factory=list)

    def policy(self, _: str) -> str:
        return self.text

    def shared_policy(self, _: str) -> str | None:
        return self.shared

    def describe(self, _: str) -> Mapping[str, Any]:
        return self.metadata

    def grants(self, _: str) -> list[Grant]:
        if self.listed is None:
            raise KeyReleaseError("no", code="kms.access_denied")
        return self.listed


def live(**changes: Any) -> list[tuple[str, bool]]:
    keys: Any = Keys(**changes)
    typed: KmsKeys = keys
    return [
        (item.code, item.hole)
        for item in check_key(typed, KEY_ARN, measurements=[ONE, TWO], roles=[HOST])
        if item.code != "governor"
    ]


WITHOUT_DENY = json.dumps(
    {"Statement": [item for item in json.loads(PRINTED)["Statement"] if item["Effect"] == "Allow"]}
)
DENY = json.loads(PRINTED)["Statement"][-1]
GRANT = Grant("g1", OWNER, ("Decrypt",))


def test_a_live_key_without_a_hole() -> None:
    assert live() == []
    assert live(text=WITHOUT_DENY) == []


def test_what_else_opens_a_live_key() -> None:
    assert live(shared='{"Statement": []}') == [("shared", True)]
    metadata = {"Origin": "EXTERNAL", "MultiRegion": True, "KeyState": "PendingDeletion"}
    assert live(metadata=metadata) == [("external", False), ("multi_region", False), ("state", False)]


@pytest.mark.parametrize("operation", ["Decrypt", "ReEncryptFrom", "CreateGrant"])
def test_a_grant_is_a_hole_unless_denied(operation: str) -> None:
    grants = [Grant("g1", OWNER, ("DescribeKey", operation)), Grant("g2", OWNER, ("DescribeKey",))]
    assert live(text=WITHOUT_DENY, listed=grants) == [("grants", True)]
    assert live(listed=grants) == [("grants_denied", False)] * 2


def test_grants_that_cannot_be_read_are_a_hole_unless_denied() -> None:
    assert live(text=WITHOUT_DENY, listed=None) == [("grants_unread", True)]
    assert live(listed=None) == []


@pytest.mark.parametrize("operator", ["StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotEqualsIfExists"])
def test_the_deny_in_other_words(operator: str) -> None:
    policy = json.loads(WITHOUT_DENY)
    policy["Statement"].append({**DENY, "Condition": {operator: {f"{ATTESTATION}PCR0": ["10" * 48]}}})
    assert live(text=json.dumps(policy), listed=[GRANT]) == [("grants_denied", False)]


@pytest.mark.parametrize(
    "changes",
    [
        {"Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": "kms:Encrypt"},
        {"Principal": {"AWS": HOST}},
        {"Action": "kms:Decrypt"},
        {"Resource": "arn:aws:kms:us-east-1:111122223333:key/other"},
        {"Condition": {"StringNotEquals": {f"{ATTESTATION}ImageSha384": ["10" * 48, "ff" * 48]}}},
        {"Condition": {"ForAllValues:StringNotEquals": {f"{ATTESTATION}ImageSha384": "10" * 48}}},
        {"Condition": {"StringNotLike": {f"{ATTESTATION}ImageSha384": "*"}}},
        {"Condition": {"StringNotEquals": {f"{ATTESTATION}PCR1": "11" * 48}}},
        {"Condition": {**DENY["Condition"], "Bool": {"aws:SecureTransport": "false"}}},
    ],
)
def test_another_deny_does_not_bind_grants(changes: dict[str, Any]) -> None:
    policy = json.loads(WITHOUT_DENY)
    policy["Statement"].append({**DENY, **changes})
    assert live(text=json.dumps(policy), listed=[GRANT]) == [("grants", True)]
