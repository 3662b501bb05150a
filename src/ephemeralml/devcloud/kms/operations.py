"""The KMS actions: each takes a request's body and its signer, and gives the answer's body or raises `ApiError`.

Source: AWS KMS API Reference. CreateKey is an IAM permission in AWS; here every configured principal has it.
"""

from __future__ import annotations

import base64
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from ephemeralml.attestation import Policy
from ephemeralml.devcloud.kms import blob, cms, fields, grants
from ephemeralml.devcloud.kms.api_error import MALFORMED_POLICY, VALIDATION, ApiError
from ephemeralml.devcloud.kms.conditions import ENCRYPTION_CONTEXT, ENCRYPTION_CONTEXT_KEYS
from ephemeralml.devcloud.kms.policy import MAX_POLICY_BYTES, Effect, KeyPolicy, default_policy
from ephemeralml.devcloud.kms.recipient import Recipient, read_recipient
from ephemeralml.devcloud.kms.store import KeyStore, StoredKey

Answer: TypeAlias = dict[str, Any]

MAX_PLAINTEXT_BYTES: Final = 4096
MAX_DATA_KEY_BYTES: Final = 1024

_ALGORITHM: Final = "SYMMETRIC_DEFAULT"
_KEY_SPECS: Final = {"AES_128": 16, "AES_256": 32}
_KEY_ARN: Final = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/([\w-]+)", re.ASCII)
_DENIALS: Final = {
    Effect.DENY: "with an explicit deny in a resource-based policy",
    None: "because no resource-based policy allows the {action} action",
}


class Operations:
    """The actions over one key store. Safe to use from several threads."""

    def __init__(self, *, store: KeyStore, evidence: Policy, region: str, account_id: str) -> None:
        """`evidence` says which roots attestation documents may chain to; measurements are the key policies' affair."""
        self._store = store
        self._evidence = evidence
        self._account_id = account_id
        self._arn_prefix = f"arn:aws:kms:{region}:{account_id}:key/"
        self._actions: Mapping[str, Callable[[fields.Body, str], Answer]] = {
            "CreateGrant": self._create_grant,
            "CreateKey": self._create_key,
            "Decrypt": self._decrypt,
            "DescribeKey": self._describe_key,
            "Encrypt": self._encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GetKeyPolicy": self._get_key_policy,
            "ListGrants": self._list_grants,
            "PutKeyPolicy": self._put_key_policy,
            "ReEncrypt": self._re_encrypt,
            "RevokeGrant": self._revoke_grant,
        }

    def perform(self, action: str, body: fields.Body, principal: str) -> Answer:
        """Carry out one action for the principal who signed it."""
        if action not in self._actions:
            raise ApiError("UnknownOperationException", "This server does not have that operation.")
        return self._actions[action](body, principal)

    def _create_key(self, body: fields.Body, principal: str) -> Answer:
        spec = fields.text(body, "KeySpec", default=_ALGORITHM)
        if spec != _ALGORITHM or fields.text(body, "KeyUsage", default="ENCRYPT_DECRYPT") != "ENCRYPT_DECRYPT":
            raise ApiError("UnsupportedOperationException", "Only symmetric encryption keys are supported.")
        key_id = str(uuid.uuid4())
        key = StoredKey(
            key_id=key_id,
            arn=self._arn_prefix + key_id,
            material=os.urandom(32),
            policy=fields.text(body, "Policy", default=default_policy(self._account_id), limit=MAX_POLICY_BYTES),
            description=fields.text(body, "Description", default="", limit=8192),
            state="Enabled",
            created_at=time.time(),
        )
        _check_policy(body, key.policy, key.arn, principal)
        self._store.add(key)
        return {"KeyMetadata": self._metadata(key)}

    def _describe_key(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        self._authorize(principal, "kms:DescribeKey", key)
        return {"KeyMetadata": self._metadata(key)}

    def _get_key_policy(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        self._authorize(principal, "kms:GetKeyPolicy", key)
        _check_policy_name(body)
        return {"Policy": key.policy, "PolicyName": "default"}

    def _put_key_policy(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        self._authorize(principal, "kms:PutKeyPolicy", key)
        _check_policy_name(body)
        policy = fields.text(body, "Policy", limit=MAX_POLICY_BYTES)
        _check_policy(body, policy, key.arn, principal)
        self._store.set_policy(key.key_id, policy)
        return {}

    def _encrypt(self, body: fields.Body, principal: str) -> Answer:
        _check_algorithm(body)
        key = self._named_key(body)
        context = fields.encryption_context(body)
        plaintext = fields.blob(body, "Plaintext", limit=MAX_PLAINTEXT_BYTES)
        self._authorize(principal, "kms:Encrypt", key, context=context)
        sealed = blob.seal(plaintext, key=key, context=context)
        return {"CiphertextBlob": _base64(sealed), "KeyId": key.arn, "EncryptionAlgorithm": _ALGORITHM}

    def _generate_data_key(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        context = fields.encryption_context(body)
        size = _data_key_size(body)
        recipient = self._recipient(body)
        self._authorize(principal, "kms:GenerateDataKey", key, context=context, recipient=recipient)
        plaintext = os.urandom(size)
        sealed = blob.seal(plaintext, key=key, context=context)
        return {"CiphertextBlob": _base64(sealed), "KeyId": key.arn, **_released(plaintext, recipient)}

    def _decrypt(self, body: fields.Body, principal: str) -> Answer:
        recipient = self._recipient(body)
        key, plaintext = self._unsealed(body, principal, "kms:Decrypt", recipient=recipient)
        return {"KeyId": key.arn, "EncryptionAlgorithm": _ALGORITHM, **_released(plaintext, recipient)}

    def _re_encrypt(self, body: fields.Body, principal: str) -> Answer:
        """Two permissions, each with the conditions of its own key: to read from the source, to write to the other."""
        _check_algorithm(body, "DestinationEncryptionAlgorithm")
        destination = self._named_key(body, "DestinationKeyId")
        context = fields.encryption_context(body, "DestinationEncryptionContext")
        source, plaintext = self._unsealed(body, principal, "kms:ReEncryptFrom", member="Source{}")
        self._authorize(principal, "kms:ReEncryptTo", destination, context=context)
        return {
            "CiphertextBlob": _base64(blob.seal(plaintext, key=destination, context=context)),
            "SourceKeyId": source.arn,
            "KeyId": destination.arn,
            "SourceEncryptionAlgorithm": _ALGORITHM,
            "DestinationEncryptionAlgorithm": _ALGORITHM,
        }

    def _unsealed(
        self,
        body: fields.Body,
        principal: str,
        action: str,
        *,
        recipient: Recipient | None = None,
        member: str = "{}",
    ) -> tuple[StoredKey, bytes]:
        """CiphertextBlob's key and plaintext, if `action` is allowed; `member` spells the other members' names."""
        _check_algorithm(body, member.format("EncryptionAlgorithm"))
        sealed = fields.blob(body, "CiphertextBlob", limit=blob.MAX_BLOB_BYTES)
        context = fields.encryption_context(body, member.format("EncryptionContext"))
        key_id, named = blob.key_id(sealed), member.format("KeyId")
        key = self._store.get(key_id) if body.get(named) is None else self._named_key(body, named)
        if key is None:
            raise ApiError(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
                "or you are not allowed to access.",
            )
        self._authorize(principal, action, key, context=context, recipient=recipient)
        if key.key_id != key_id:
            raise ApiError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        return key, blob.unseal(sealed, key=key, context=context)

    def _granted(self, principal: str, action: str, key: StoredKey) -> bool:
        operation = action.removeprefix("kms:")
        return any(
            grant.grantee == principal and operation in grant.operations for grant in self._store.grants(key.key_id)
        )

    def _create_grant(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        self._authorize(principal, "kms:CreateGrant", key)
        grant = grants.read_grant(body)
        self._store.add_grant(key.key_id, grant)
        return {"GrantId": grant.grant_id, "GrantToken": grant.grant_id}

    def _list_grants(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        self._authorize(principal, "kms:ListGrants", key)
        return grants.page(body, self._store.grants(key.key_id), key.arn)

    def _revoke_grant(self, body: fields.Body, principal: str) -> Answer:
        key = self._named_key(body)
        self._authorize(principal, "kms:RevokeGrant", key)
        if not self._store.remove_grant(key.key_id, fields.text(body, "GrantId")):
            raise ApiError("NotFoundException", "No such grant exists.")
        return {}

    def _recipient(self, body: fields.Body) -> Recipient | None:
        return read_recipient(body, policy=self._evidence, at=datetime.now(UTC))

    def _named_key(self, body: fields.Body, member: str = "KeyId") -> StoredKey:
        """The key that a member names by its id or ARN; there are no aliases here."""
        name = fields.text(body, member)
        match = _KEY_ARN.fullmatch(name)
        if match is None and name.startswith("arn:"):
            raise ApiError("InvalidArnException", f"{member} is not a key ARN.")
        key = self._store.get(name if match is None else match[1])
        if key is None or (match is not None and key.arn != name):
            raise ApiError("NotFoundException", f"The key named by {member} does not exist.")
        return key

    def _metadata(self, key: StoredKey) -> Answer:
        return {
            "AWSAccountId": self._account_id,
            "KeyId": key.key_id,
            "Arn": key.arn,
            "CreationDate": key.created_at,
            "Enabled": key.state == "Enabled",
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": key.state,
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": _ALGORITHM,
            "KeySpec": _ALGORITHM,
            "EncryptionAlgorithms": [_ALGORITHM],
            "MultiRegion": False,
        }

    def _authorize(
        self,
        principal: str,
        action: str,
        key: StoredKey,
        *,
        context: Mapping[str, str] | None = None,
        recipient: Recipient | None = None,
    ) -> None:
        """Ask the key's policy, then its grants; `context`, the encryption context, is None for actions on the key."""
        conditions: dict[str, tuple[str, ...]] = {} if recipient is None else dict(recipient.context)
        if context:
            conditions |= {f"{ENCRYPTION_CONTEXT}{name.lower()}": (value,) for name, value in context.items()}
            conditions[ENCRYPTION_CONTEXT_KEYS] = tuple(context)
        effect = KeyPolicy.parse(key.policy).decide(
            principal=principal, action=action, resource=key.arn, context=conditions
        )
        if effect is None and self._granted(principal, action, key):
            effect = Effect.ALLOW
        if effect is not Effect.ALLOW:
            reason = _DENIALS[effect].format(action=action)
            raise ApiError(
                "AccessDeniedException",
                f"User: {principal} is not authorized to perform: {action} on resource: {key.arn} {reason}",
            )
        if context is not None and key.state != "Enabled":
            raise ApiError("DisabledException", f"{key.arn} is disabled.")


def _check_policy(body: fields.Body, policy: str, arn: str, principal: str) -> None:
    """Refuse a malformed policy, and one that locks its author out (AWS's policy lockout safety check)."""
    parsed = KeyPolicy.parse(policy)
    if fields.flag(body, "BypassPolicyLockoutSafetyCheck"):
        return
    if parsed.decide(principal=principal, action="kms:PutKeyPolicy", resource=arn, context={}) is not Effect.ALLOW:
        raise ApiError(
            MALFORMED_POLICY, "The new key policy will not allow you to update the key policy in the future."
        )


def _check_policy_name(body: fields.Body) -> None:
    if fields.text(body, "PolicyName", default="default") != "default":
        raise ApiError("NotFoundException", "No such policy exists.")


def _check_algorithm(body: fields.Body, member: str = "EncryptionAlgorithm") -> None:
    if fields.text(body, member, default=_ALGORITHM) != _ALGORITHM:
        raise ApiError("InvalidKeyUsageException", f"{member} must be {_ALGORITHM}.")


def _data_key_size(body: fields.Body) -> int:
    spec, size = body.get("KeySpec"), body.get("NumberOfBytes")
    if (spec is None) == (size is None):
        raise ApiError(VALIDATION, "Please specify either number of bytes or key spec.")
    if size is None:
        size = _KEY_SPECS.get(fields.text(body, "KeySpec"))
    if type(size) is not int or not 1 <= size <= MAX_DATA_KEY_BYTES:
        raise ApiError(VALIDATION, f"KeySpec must be AES_256 or AES_128, NumberOfBytes 1 to {MAX_DATA_KEY_BYTES}.")
    return size


def _released(plaintext: bytes, recipient: Recipient | None) -> Answer:
    """The secret part of an answer: in the clear for the caller, or for the attested recipient only."""
    if recipient is None:
        return {"Plaintext": _base64(plaintext)}
    return {"CiphertextForRecipient": _base64(cms.envelope(plaintext, recipient.public_key))}


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
