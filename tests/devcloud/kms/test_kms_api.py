"""The KMS as unchanged boto3 sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from threads import in_threads

from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.key_release import open_envelope

from .conftest import refused

Attest = Callable[..., bytes]

PCR0 = bytes.fromhex("a1" * 48)
PCRS = {0: PCR0, 1: bytes.fromhex("b2" * 48), 2: bytes.fromhex("c3" * 48)}
CONTEXT = {"package": "demo", "version": "1"}
OWNER_ARN = "arn:aws:iam::000000000000:user/owner"
HOST_ARN = "arn:aws:iam::000000000000:role/host"


def key_policy(**conditions: Any) -> str:
    """The owner may do all but read; the host may release, under `conditions` (default: PCR0 and the context)."""
    release = conditions or {
        "StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": PCR0.hex()},
        "StringEquals": {"kms:EncryptionContext:package": "demo"},
    }
    manage = ["kms:DescribeKey", "kms:PutKeyPolicy", "kms:GetKeyPolicy", "kms:GenerateDataKey", "kms:Encrypt"]
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"AWS": OWNER_ARN}, "Action": manage, "Resource": "*"},
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": HOST_ARN},
                    "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
                    "Resource": "*",
                    "Condition": release,
                },
            ],
        }
    )


def recipient(document: bytes) -> dict[str, Any]:
    return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}


@pytest.fixture
def key_arn(owner: Any) -> str:
    arn: str = owner.create_key(Policy=key_policy(), Description="model", Tags=[{"TagKey": "a", "TagValue": "b"}])[
        "KeyMetadata"
    ]["Arn"]
    return arn


@pytest.fixture
def data_key(owner: Any, key_arn: str) -> dict[str, Any]:
    answer: dict[str, Any] = owner.generate_data_key(KeyId=key_arn, KeySpec="AES_256", EncryptionContext=CONTEXT)
    return answer


@pytest.fixture
def release(host: Any, key_arn: str, data_key: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    def call(document: bytes, **changes: Any) -> dict[str, Any]:
        parameters = {
            "KeyId": key_arn,
            "CiphertextBlob": data_key["CiphertextBlob"],
            "EncryptionContext": CONTEXT,
            "Recipient": recipient(document),
            **changes,
        }
        answer: dict[str, Any] = host.decrypt(
            **{name: value for name, value in parameters.items() if value is not None}
        )
        return answer

    return call


class TestRelease:
    def test_to_the_measured_enclave(
        self, release: Any, attest: Attest, data_key: dict[str, Any], enclave_key: rsa.RSAPrivateKey, key_arn: str
    ) -> None:
        answer = release(attest(PCRS))
        assert "Plaintext" not in answer
        assert (answer["KeyId"], answer["EncryptionAlgorithm"]) == (key_arn, "SYMMETRIC_DEFAULT")
        assert open_envelope(answer["CiphertextForRecipient"], enclave_key) == data_key["Plaintext"]

    def test_key_id_is_optional_and_may_be_bare(self, release: Any, attest: Attest, key_arn: str) -> None:
        assert release(attest(PCRS), KeyId=None)["KeyId"] == key_arn
        assert release(attest(PCRS), KeyId=key_arn.rpartition("/")[2])["KeyId"] == key_arn

    def test_a_document_may_be_used_again(self, release: Any, attest: Attest) -> None:
        document = attest(PCRS)
        assert release(document)["CiphertextForRecipient"] != release(document)["CiphertextForRecipient"]

    def test_generate_data_key_for_the_enclave(
        self, host: Any, key_arn: str, attest: Attest, enclave_key: rsa.RSAPrivateKey, release: Any
    ) -> None:
        answer = host.generate_data_key(
            KeyId=key_arn, NumberOfBytes=64, EncryptionContext=CONTEXT, Recipient=recipient(attest(PCRS))
        )
        assert "Plaintext" not in answer
        made = open_envelope(answer["CiphertextForRecipient"], enclave_key)
        assert len(made) == 64
        again = release(attest(PCRS), CiphertextBlob=answer["CiphertextBlob"])
        assert open_envelope(again["CiphertextForRecipient"], enclave_key) == made

    def test_refuses_wrong_pcr0(self, release: Any, attest: Attest) -> None:
        with refused("AccessDeniedException"):
            release(attest({**PCRS, 0: bytes.fromhex("a2" * 48)}))

    def test_refuses_debug_document_even_if_the_policy_lists_zeros(
        self, release: Any, attest: Attest, owner: Any, key_arn: str
    ) -> None:
        debug = attest({index: bytes(48) for index in range(3)})
        with refused("AccessDeniedException"):
            release(debug)
        zeros = {"StringEquals": {"kms:RecipientAttestation:ImageSha384": "0" * 96}}
        owner.put_key_policy(KeyId=key_arn, PolicyName="default", Policy=key_policy(**zeros))
        with refused("AccessDeniedException"):
            release(debug)

    def test_refuses_without_recipient(self, release: Any) -> None:
        with refused("AccessDeniedException"):
            release(b"", Recipient=None)

    def test_refuses_forged_root(self, release: Any, attest: Attest) -> None:
        with refused("ValidationException"):
            release(attest(PCRS, issuer=DevelopmentRoot.create()))

    def test_refuses_bit_flipped_document(self, release: Any, attest: Attest) -> None:
        document = attest(PCRS)
        for position in range(0, len(document), len(document) // 24):
            flipped = bytearray(document)
            flipped[position] ^= 1
            with refused("ValidationException"):
                release(bytes(flipped))

    @pytest.mark.parametrize("document", [b"x", b"\x84" * 5000, bytes(70000)])
    def test_refuses_garbage_document(self, release: Any, document: bytes) -> None:
        with refused("ValidationException"):
            release(document)

    def test_refuses_genuine_document_after_its_three_hours(self, release: Any, vectors: Path) -> None:
        document = next((vectors / "nitro-docs").glob("*.bin"))
        with refused("ValidationException"):
            release(document.read_bytes())

    def test_refuses_document_without_a_usable_rsa_key(self, release: Any, attest: Attest) -> None:
        small = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
        curve = ec.generate_private_key(ec.SECP256R1()).public_key()
        encoded = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (small, curve)]
        for public_key in (None, b"\x00" * 32, *encoded):
            with refused("ValidationException"):
                release(attest(PCRS, public_key=public_key))

    @pytest.mark.parametrize("context", [{}, {"package": "demo"}, {**CONTEXT, "version": "2"}, {**CONTEXT, "x": "y"}])
    def test_refuses_wrong_encryption_context(self, release: Any, attest: Attest, context: dict[str, str]) -> None:
        # The policy asks for package=demo; what it does not ask for, the ciphertext still binds.
        kind = "InvalidCiphertextException" if context.get("package") == "demo" else "AccessDeniedException"
        with refused(kind):
            release(attest(PCRS), EncryptionContext=context)

    def test_refuses_wrong_key_arn(self, release: Any, attest: Attest, owner: Any, key_arn: str) -> None:
        other = owner.create_key(Policy=key_policy())["KeyMetadata"]["Arn"]
        with refused("IncorrectKeyException"):
            release(attest(PCRS), KeyId=other)
        with refused("NotFoundException"):
            release(attest(PCRS), KeyId=key_arn[:-1] + ("0" if key_arn[-1] != "0" else "1"))
        with refused("NotFoundException"):
            release(attest(PCRS), KeyId=key_arn.replace("us-east-1", "eu-west-1"))
        with refused("NotFoundException"):
            release(attest(PCRS), KeyId="alias/model")
        with refused("InvalidArnException"):
            release(attest(PCRS), KeyId="arn:aws:kms:us-east-1:000000000000:alias/model")

    def test_refuses_changed_ciphertext(self, release: Any, attest: Attest, data_key: dict[str, Any]) -> None:
        blob = data_key["CiphertextBlob"]
        with refused("InvalidCiphertextException"):
            release(attest(PCRS), CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]))
        with refused("InvalidCiphertextException"):
            release(attest(PCRS), CiphertextBlob=b"nonsense")
        unknown = blob[:1] + bytes(16) + blob[17:]
        with refused("AccessDeniedException"):
            release(attest(PCRS), CiphertextBlob=unknown, KeyId=None)

    def test_refuses_the_owner_as_well(self, owner: Any, key_arn: str, data_key: dict[str, Any]) -> None:
        with refused("AccessDeniedException"):
            owner.decrypt(KeyId=key_arn, CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=CONTEXT)

    def test_pcr_conditions(self, release: Any, attest: Attest, owner: Any, key_arn: str) -> None:
        both = {f"kms:RecipientAttestation:PCR{index}": PCRS[index].hex() for index in (0, 2)}
        owner.put_key_policy(KeyId=key_arn, PolicyName="default", Policy=key_policy(StringEquals=both))
        assert release(attest(PCRS))["CiphertextForRecipient"]
        with refused("AccessDeniedException"):
            release(attest({**PCRS, 2: PCR0}))

    def test_account_root_statement_bypasses_attestation(
        self, host: Any, owner: Any, data_key: dict[str, Any], key_arn: str
    ) -> None:
        policy = json.loads(key_policy())
        everybody = {"AWS": "arn:aws:iam::000000000000:root"}
        policy["Statement"].append({"Effect": "Allow", "Principal": everybody, "Action": "kms:*", "Resource": "*"})
        owner.put_key_policy(KeyId=key_arn, PolicyName="default", Policy=json.dumps(policy))
        answer = host.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=CONTEXT)
        assert answer["Plaintext"] == data_key["Plaintext"]

    def test_refuses_another_wrapping_algorithm(self, host: Any, release: Any, attest: Attest) -> None:
        with refused("ValidationException"):
            release(b"", Recipient={**recipient(attest(PCRS)), "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"})
        with refused("InvalidKeyUsageException"):
            release(attest(PCRS), EncryptionAlgorithm="RSAES_OAEP_SHA_256")


class TestKeys:
    def test_describe(self, owner: Any, key_arn: str) -> None:
        metadata = owner.describe_key(KeyId=key_arn)["KeyMetadata"]
        assert metadata["Arn"] == key_arn
        assert key_arn.endswith(metadata["KeyId"])
        assert (metadata["KeyState"], metadata["Description"]) == ("Enabled", "model")
        assert abs(datetime.now(UTC) - metadata["CreationDate"]) < timedelta(minutes=1)

    def test_encrypt_and_decrypt_under_the_default_policy(self, owner: Any) -> None:
        arn = owner.create_key()["KeyMetadata"]["Arn"]
        for plaintext in (b"x", os.urandom(4096)):
            sealed = owner.encrypt(KeyId=arn, Plaintext=plaintext, EncryptionContext=CONTEXT)
            assert sealed["KeyId"] == arn
            opened = owner.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT)
            assert opened["Plaintext"] == plaintext

    def test_data_key_sizes(self, owner: Any, key_arn: str, data_key: dict[str, Any]) -> None:
        assert len(data_key["Plaintext"]) == 32
        assert data_key["KeyId"] == key_arn
        assert len(owner.generate_data_key(KeyId=key_arn, KeySpec="AES_128")["Plaintext"]) == 16
        assert len(owner.generate_data_key(KeyId=key_arn, NumberOfBytes=1024)["Plaintext"]) == 1024
        for parameters in ({}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1025}, {"KeySpec": "X"}):
            with refused("ValidationException"):
                owner.generate_data_key(KeyId=key_arn, **parameters)

    def test_policy_is_kept_as_given(self, owner: Any, key_arn: str) -> None:
        answer = owner.get_key_policy(KeyId=key_arn, PolicyName="default")
        assert (answer["Policy"], answer["PolicyName"]) == (key_policy(), "default")
        with refused("NotFoundException"):
            owner.get_key_policy(KeyId=key_arn, PolicyName="other")

    def test_host_may_not_manage(self, host: Any, key_arn: str) -> None:
        with refused("AccessDeniedException"):
            host.put_key_policy(KeyId=key_arn, PolicyName="default", Policy=key_policy())
        with refused("AccessDeniedException"):
            host.get_key_policy(KeyId=key_arn, PolicyName="default")
        with refused("AccessDeniedException"):
            host.describe_key(KeyId=key_arn)
        with refused("AccessDeniedException"):
            host.encrypt(KeyId=key_arn, Plaintext=b"x", EncryptionContext=CONTEXT)

    def test_refuses_bad_policies_and_keeps_the_old_one(self, owner: Any, key_arn: str) -> None:
        denies = json.loads(key_policy())
        denies["Statement"].append(
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "*",
                "Resource": "*",
                "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
            }
        )
        lockout = json.loads(key_policy())
        del lockout["Statement"][0]
        for policy in ("{", json.dumps(denies), json.dumps(lockout)):
            with refused("MalformedPolicyDocumentException"):
                owner.put_key_policy(KeyId=key_arn, PolicyName="default", Policy=policy)
            with refused("MalformedPolicyDocumentException"):
                owner.create_key(Policy=policy)
        assert owner.get_key_policy(KeyId=key_arn)["Policy"] == key_policy()
        owner.put_key_policy(KeyId=key_arn, Policy=json.dumps(lockout), BypassPolicyLockoutSafetyCheck=True)
        with refused("AccessDeniedException"):
            owner.describe_key(KeyId=key_arn)

    def test_refuses_other_kinds_of_key(self, owner: Any) -> None:
        with refused("UnsupportedOperationException"):
            owner.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
        with refused("UnsupportedOperationException"):
            owner.create_key(KeyUsage="GENERATE_VERIFY_MAC")
        with refused("ValidationException"):
            owner.create_key(Description="x" * 8193)
        with refused("UnknownOperationException"):
            owner.list_keys()

    def test_refuses_encryption_context_a_policy_cannot_tell_apart(self, owner: Any, key_arn: str) -> None:
        for context in ({"a": "1", "A": "2"}, {"a": "x" * 8200}):
            with refused("ValidationException"):
                owner.encrypt(KeyId=key_arn, Plaintext=b"x", EncryptionContext=context)


class TestGrants:
    @pytest.fixture
    def open_key(self, owner: Any) -> str:
        """The ARN of a key that the owner may do everything with, and nobody else anything."""
        everything = {"Effect": "Allow", "Principal": {"AWS": OWNER_ARN}, "Action": "kms:*", "Resource": "*"}
        arn: str = owner.create_key(Policy=json.dumps({"Statement": everything}))["KeyMetadata"]["Arn"]
        return arn

    def test_a_grant_allows_its_operations_to_its_principal_until_revoked(
        self, owner: Any, host: Any, open_key: str
    ) -> None:
        sealed = owner.encrypt(KeyId=open_key, Plaintext=b"x")["CiphertextBlob"]
        grant = owner.create_grant(KeyId=open_key, GranteePrincipal=HOST_ARN, Operations=["Decrypt"])["GrantId"]
        assert host.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x"
        with refused("AccessDeniedException"):
            host.encrypt(KeyId=open_key, Plaintext=b"x")
        owner.revoke_grant(KeyId=open_key, GrantId=grant)
        with refused("AccessDeniedException"):
            host.decrypt(CiphertextBlob=sealed)
        with refused("NotFoundException"):
            owner.revoke_grant(KeyId=open_key, GrantId=grant)

    def test_a_grant_is_of_one_key(self, owner: Any, host: Any, open_key: str, key_arn: str) -> None:
        owner.create_grant(KeyId=open_key, GranteePrincipal=HOST_ARN, Operations=["DescribeKey"])
        assert host.describe_key(KeyId=open_key)
        with refused("AccessDeniedException"):
            host.describe_key(KeyId=key_arn)

    def test_an_explicit_deny_wins_over_a_grant(self, owner: Any, host: Any, open_key: str) -> None:
        sealed = owner.encrypt(KeyId=open_key, Plaintext=b"x")["CiphertextBlob"]
        owner.create_grant(KeyId=open_key, GranteePrincipal=HOST_ARN, Operations=["Decrypt"])
        policy = json.loads(owner.get_key_policy(KeyId=open_key)["Policy"])
        deny = {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
        owner.put_key_policy(KeyId=open_key, Policy=json.dumps({"Statement": [policy["Statement"], deny]}))
        with refused("AccessDeniedException"):
            host.decrypt(CiphertextBlob=sealed)

    def test_they_are_listed_in_pages(self, owner: Any, open_key: str) -> None:
        for _ in range(3):
            owner.create_grant(KeyId=open_key, GranteePrincipal=HOST_ARN, Operations=["Decrypt", "DescribeKey"])
        pages = list(owner.get_paginator("list_grants").paginate(KeyId=open_key, PaginationConfig={"PageSize": 2}))
        assert [len(page["Grants"]) for page in pages] == [2, 1]
        grant = pages[0]["Grants"][0]
        assert (grant["GranteePrincipal"], grant["Operations"]) == (HOST_ARN, ["Decrypt", "DescribeKey"])

    def test_who_may_not(self, host: Any, owner: Any, open_key: str, key_arn: str) -> None:
        for client, key in ((host, open_key), (owner, key_arn)):
            with refused("AccessDeniedException"):
                client.create_grant(KeyId=key, GranteePrincipal=HOST_ARN, Operations=["Decrypt"])
            with refused("AccessDeniedException"):
                client.list_grants(KeyId=key)
            with refused("AccessDeniedException"):
                client.revoke_grant(KeyId=key, GrantId="x")

    def test_refuses_what_it_would_not_enforce(self, owner: Any, open_key: str) -> None:
        for parameters, kind in (
            ({"Operations": ["Sign"]}, "ValidationException"),
            ({"Operations": []}, "ValidationException"),
            ({"GranteePrincipal": "arn:aws:iam::000000000000:root"}, "InvalidArnException"),
            ({"RetiringPrincipal": HOST_ARN}, "UnsupportedOperationException"),
            ({"Constraints": {"EncryptionContextSubset": {"a": "b"}}}, "UnsupportedOperationException"),
        ):
            given = {"KeyId": open_key, "GranteePrincipal": HOST_ARN, "Operations": ["Decrypt"], **parameters}
            with refused(kind):
                owner.create_grant(**given)
        with refused("InvalidMarkerException"):
            owner.list_grants(KeyId=open_key, Marker="x")


class TestServer:
    def test_keys_and_policies_survive_a_restart(
        self, tmp_path: Path, connect: Callable[..., Any], root: DevelopmentRoot
    ) -> None:
        credential = Credential("AKIDOWNER", "owner-secret", OWNER_ARN)
        store = tmp_path / "again.sqlite"
        with KmsServer(store=store, credentials=[credential], roots=[root.der]) as first:
            client = connect(credential, url=first.url)
            arn = client.create_key()["KeyMetadata"]["Arn"]
            sealed = client.encrypt(KeyId=arn, Plaintext=b"kept")["CiphertextBlob"]
        with KmsServer(store=store, credentials=[credential], roots=[root.der]) as second:
            client = connect(credential, url=second.url)
            assert client.decrypt(KeyId=arn, CiphertextBlob=sealed)["Plaintext"] == b"kept"

    def test_wrong_secret_unknown_key_and_old_date(
        self, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        credential = Credential("AKIDOWNER", "owner-secret", OWNER_ARN)
        with refused("InvalidSignatureException"):
            connect(credential, secret="wrong").create_key()
        with refused("UnrecognizedClientException"):
            connect(Credential("AKIDNOBODY", "x", OWNER_ARN)).create_key()
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: datetime(2020, 1, 1, tzinfo=UTC))
        with refused("InvalidSignatureException"):
            connect(credential).create_key()

    def test_tampered_body(self, owner: Any) -> None:
        def tamper(request: Any, **_: Any) -> None:
            request.body = request.body.replace(b"{}", b"{ }")
            request.headers["Content-Length"] = str(len(request.body))

        owner.meta.events.register("before-send.kms.CreateKey", tamper)
        with refused("InvalidSignatureException"):
            owner.create_key()

    def test_oversized_body(self, owner: Any) -> None:
        with refused("RequestEntityTooLargeException"):
            owner.create_key(Description="x" * 300_000)

    @pytest.mark.parametrize("change", ["target", "content-type", "path", "query"])
    def test_other_protocols(self, owner: Any, change: str) -> None:
        def before_sign(request: Any, **_: Any) -> None:
            if change == "target":
                request.headers.replace_header("X-Amz-Target", "Other.CreateKey")
            elif change == "content-type":
                request.headers.replace_header("Content-Type", "application/json")
            elif change == "path":
                request.url += "elsewhere"
            else:
                request.url += "?a=b"

        owner.meta.events.register("before-sign.kms.CreateKey", before_sign)
        with pytest.raises(ClientError) as caught:
            owner.create_key()
        assert caught.value.response["Error"]["Code"] in {"UnknownOperationException", "404"}

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 9000, b"\xff", b'{"KeyId": 1}', b'{"Policy": true}'])
    def test_bodies_that_are_not_requests(self, owner: Any, body: bytes) -> None:
        def before_sign(request: Any, **_: Any) -> None:
            request.data = body

        name = "DescribeKey" if b"KeyId" in body else "CreateKey"
        owner.meta.events.register(f"before-sign.kms.{name}", before_sign)
        with refused("SerializationException"):
            owner.describe_key(KeyId="x") if name == "DescribeKey" else owner.create_key()

    @pytest.mark.parametrize(
        ("member", "value"),
        [
            ("CiphertextBlob", 1),
            ("CiphertextBlob", "***"),
            ("EncryptionContext", []),
            ("EncryptionContext", {"a": 1}),
            ("EncryptionContext", {"a": "\ud800"}),
            ("Recipient", "x"),
            ("BypassPolicyLockoutSafetyCheck", "yes"),
        ],
    )
    def test_members_of_the_wrong_type(self, owner: Any, member: str, value: object) -> None:
        name = "CreateKey" if member.startswith("Bypass") else "Decrypt"

        def before_sign(request: Any, **_: Any) -> None:
            request.data = json.dumps({"CiphertextBlob": "AAAA", member: value}).encode()

        owner.meta.events.register(f"before-sign.kms.{name}", before_sign)
        with refused("SerializationException"):
            owner.create_key() if name == "CreateKey" else owner.decrypt(CiphertextBlob=b"x")

    def test_missing_members(self, owner: Any) -> None:
        def before_sign(request: Any, **_: Any) -> None:
            request.data = b"{}"

        owner.meta.events.register("before-sign.kms", before_sign)
        with refused("ValidationException"):
            owner.decrypt(CiphertextBlob=b"x")
        with refused("ValidationException"):
            owner.describe_key(KeyId="x")

    def test_many_clients_at_once(self, owner: Any, key_arn: str) -> None:
        answers: list[bytes] = []

        def call(_: int) -> None:
            answers.append(owner.generate_data_key(KeyId=key_arn, KeySpec="AES_256")["Plaintext"])

        assert in_threads(16, call) == []
        assert len(set(answers)) == 16
