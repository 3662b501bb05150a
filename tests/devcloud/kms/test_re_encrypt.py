"""ReEncrypt, as unchanged boto3 sees it: two permissions, each by its own key's policy and on its own context."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import refused

CONTEXT = {"package": "demo", "version": "1"}
OWNER_ARN = "arn:aws:iam::000000000000:user/owner"
HOST_ARN = "arn:aws:iam::000000000000:role/host"
MakeKey = Callable[..., str]


def key_policy(actions: list[str], condition: dict[str, Any] | None) -> str:
    """The owner governs and wraps; the host may do `actions`, under `condition`."""
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": {"AWS": HOST_ARN}, "Action": actions, "Resource": "*"}
    if condition:
        statement["Condition"] = condition
    govern = {
        "Effect": "Allow",
        "Principal": {"AWS": OWNER_ARN},
        "Action": ["kms:PutKeyPolicy", "kms:Encrypt", "kms:Decrypt"],
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [govern, statement]})


@pytest.fixture
def make_key(owner: Any) -> MakeKey:
    def make(*actions: str, **condition: Any) -> str:
        policy = key_policy(list(actions) or ["kms:DescribeKey"], condition)
        arn: str = owner.create_key(Policy=policy)["KeyMetadata"]["Arn"]
        return arn

    return make


@pytest.fixture
def move(owner: Any, host: Any) -> Callable[..., dict[str, Any]]:
    """Seals a text under `source` and has the host move it to `destination`."""

    def call(source: str, destination: str, **changes: Any) -> dict[str, Any]:
        sealed = owner.encrypt(KeyId=source, Plaintext=b"a data key", EncryptionContext=CONTEXT)["CiphertextBlob"]
        parameters = {
            "CiphertextBlob": sealed,
            "SourceKeyId": source,
            "SourceEncryptionContext": CONTEXT,
            "DestinationKeyId": destination,
            "DestinationEncryptionContext": CONTEXT,
            **changes,
        }
        answer: dict[str, Any] = host.re_encrypt(
            **{name: value for name, value in parameters.items() if value is not None}
        )
        return answer

    return call


@pytest.fixture
def source(make_key: MakeKey) -> str:
    return make_key("kms:ReEncryptFrom")


@pytest.fixture
def destination(make_key: MakeKey) -> str:
    return make_key("kms:ReEncryptTo")


def test_moves_what_is_sealed_and_shows_it_to_nobody(move: Any, owner: Any, source: str, destination: str) -> None:
    answer = move(source, destination)
    assert "Plaintext" not in answer
    assert (answer["SourceKeyId"], answer["KeyId"]) == (source, destination)
    assert answer["SourceEncryptionAlgorithm"] == answer["DestinationEncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    opened = owner.decrypt(CiphertextBlob=answer["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert (opened["Plaintext"], opened["KeyId"]) == (b"a data key", destination)


def test_the_source_is_found_in_the_blob_and_the_new_context_may_differ(
    move: Any, owner: Any, source: str, destination: str
) -> None:
    answer = move(source, destination, SourceKeyId=None, DestinationEncryptionContext=None)
    assert answer["SourceKeyId"] == source
    assert owner.decrypt(CiphertextBlob=answer["CiphertextBlob"])["Plaintext"] == b"a data key"
    with refused("InvalidCiphertextException"):
        owner.decrypt(CiphertextBlob=answer["CiphertextBlob"], EncryptionContext=CONTEXT)


@pytest.mark.parametrize(
    ("of_source", "of_destination"),
    [
        ((), ("kms:ReEncryptTo",)),
        (("kms:ReEncryptFrom",), ()),
        (("kms:Decrypt", "kms:ReEncryptTo"), ("kms:ReEncryptTo",)),
        (("kms:ReEncryptFrom",), ("kms:Encrypt", "kms:ReEncryptFrom")),
    ],
)
def test_both_permissions_are_needed_each_on_its_own_key(
    move: Any, make_key: MakeKey, of_source: tuple[str, ...], of_destination: tuple[str, ...]
) -> None:
    with refused("AccessDeniedException"):
        move(make_key(*of_source), make_key(*of_destination))


def test_on_one_key_both_are_needed_too(move: Any, make_key: MakeKey) -> None:
    both = make_key("kms:ReEncrypt*")
    assert move(both, both)["KeyId"] == both
    with refused("AccessDeniedException"):
        move((only := make_key("kms:ReEncryptFrom")), only)


def test_each_condition_is_on_its_own_context(move: Any, make_key: MakeKey) -> None:
    demo = {"StringEquals": {"kms:EncryptionContext:package": "demo"}}
    source, destination = make_key("kms:ReEncryptFrom", **demo), make_key("kms:ReEncryptTo", **demo)
    move(source, destination)
    with refused("AccessDeniedException"):
        move(source, destination, DestinationEncryptionContext={"package": "other"})
    with refused("AccessDeniedException"):
        move(source, destination, SourceEncryptionContext={"package": "other"})
    with refused("AccessDeniedException"):
        move(source, destination, DestinationEncryptionContext=None)


def test_an_attestation_condition_is_never_met_by_who_brings_no_document(
    move: Any, make_key: MakeKey, destination: str
) -> None:
    attested = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": "a1" * 48}}
    with refused("AccessDeniedException"):
        move(make_key("kms:ReEncryptFrom", **attested), destination)


def test_another_blob_context_key_or_algorithm(move: Any, make_key: MakeKey, source: str, destination: str) -> None:
    with refused("InvalidCiphertextException"):
        move(source, destination, SourceEncryptionContext={})
    with refused("InvalidCiphertextException"):
        move(source, destination, CiphertextBlob=b"nonsense")
    with refused("IncorrectKeyException"):
        move(source, destination, SourceKeyId=make_key("kms:ReEncryptFrom"))
    with refused("NotFoundException"):
        move(source, destination[:-12] + "000000000000")
    with refused("InvalidArnException"):
        move(source, destination.replace("key/", "alias/"))
    for side in ("Source", "Destination"):
        with refused("InvalidKeyUsageException"):
            move(source, destination, **{f"{side}EncryptionAlgorithm": "RSAES_OAEP_SHA_256"})
        with refused("ValidationException"):
            move(source, destination, **{f"{side}EncryptionContext": {"a": "1", "A": "2"}})
