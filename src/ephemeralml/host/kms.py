"""AWS KMS through boto3: release for an attested enclave (the host's key broker) and data keys (the owner's `pack`).

Every failure is a `KeyReleaseError` whose code starts with ``kms.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ephemeralml.errors import KeyReleaseError
from ephemeralml.host.key_policy import likely_cause
from ephemeralml.host.kms_calls import KmsCalls
from ephemeralml.package import DataKey, KeyRecord
from ephemeralml.session.kms_errors import bad_answer

PROVIDER: Final = "aws-kms"

_KEY_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:kms:([a-z0-9-]{1,32}):\d{12}:key/([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ReleasedKey:
    """A data key that KMS encrypted to an attested enclave: nothing on this side can open it."""

    key_arn: str
    ciphertext_for_recipient: bytes


class KmsClient:
    """KMS in one region. Safe to use from several threads."""

    def __init__(self, *, region: str, endpoint_url: str | None = None) -> None:
        """`endpoint_url` None is AWS's own. Raises `ConfigurationError` for a region or address that cannot work."""
        self._region = region
        self._kms = KmsCalls(region=region, endpoint_url=endpoint_url)

    def decrypt_for_recipient(
        self,
        *,
        key_arn: str,
        wrapped_dek: bytes,
        encryption_context: Mapping[str, str],
        attestation_document: bytes,
    ) -> ReleasedKey:
        """Ask KMS to re-encrypt the wrapped key to the public key inside the attestation document.

        Raises `KeyReleaseError`: for a `key_arn` that is no key ARN of this region, for every refusal of KMS, and for
        an answer that carries plaintext, names another key or holds no CiphertextForRecipient.
        """
        self._check_region(key_arn)
        try:
            answer = self._kms.call(
                "decrypt",
                KeyId=key_arn,
                CiphertextBlob=wrapped_dek,
                EncryptionContext=dict(encryption_context),
                EncryptionAlgorithm="SYMMETRIC_DEFAULT",
                Recipient={"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": attestation_document},
            )
        except KeyReleaseError as error:
            if error.code == "kms.access_denied":
                raise self._explained(error, key_arn, attestation_document) from error
            raise
        if answer.get("Plaintext"):
            raise bad_answer("it carries the key in plaintext, as if no Recipient had been asked for")
        return ReleasedKey(key_arn, _checked(answer, key_arn, "CiphertextForRecipient"))

    def generate_data_key(self, *, key_arn: str, encryption_context: Mapping[str, str]) -> DataKey:
        """A new 32-byte data key, in plaintext and wrapped. Raises `KeyReleaseError`."""
        self._check_region(key_arn)
        context = dict(encryption_context)
        answer = self._kms.call("generate_data_key", KeyId=key_arn, KeySpec="AES_256", EncryptionContext=context)
        plaintext, wrapped = _checked(answer, key_arn, "Plaintext"), _checked(answer, key_arn, "CiphertextBlob")
        if len(plaintext) != 32:
            raise bad_answer(f"a data key of {len(plaintext)} bytes instead of 32")
        return DataKey(plaintext=plaintext, wrapped=wrapped, key_arn=key_arn, provider=PROVIDER)

    def re_encrypt(
        self, *, wrapped_dek: bytes, encryption_context: Mapping[str, str], from_arn: str, to_arn: str
    ) -> bytes:
        """The data key wrapped by `from_arn`, wrapped by `to_arn` under the same context; KMS alone sees it.

        Both keys are of this client's region. Raises `KeyReleaseError`, also for an answer about other keys.
        """
        for key_arn in (from_arn, to_arn):
            self._check_region(key_arn)
        context = dict(encryption_context)
        answer = self._kms.call(
            "re_encrypt",
            CiphertextBlob=wrapped_dek,
            SourceKeyId=from_arn,
            SourceEncryptionContext=context,
            SourceEncryptionAlgorithm="SYMMETRIC_DEFAULT",
            DestinationKeyId=to_arn,
            DestinationEncryptionContext=context,
            DestinationEncryptionAlgorithm="SYMMETRIC_DEFAULT",
        )
        if answer.get("SourceKeyId") != from_arn:
            raise bad_answer("it names another source key than the one asked for")
        return _checked(answer, to_arn, "CiphertextBlob")

    def _explained(self, denied: KeyReleaseError, key_arn: str, document: bytes) -> KeyReleaseError:
        """The refusal with its likely cause, where this role may read the key policy; best effort."""
        try:
            policy = self._kms.call_briefly("get_key_policy", KeyId=key_arn, PolicyName="default").get("Policy")
        except KeyReleaseError:
            policy = None
        cause = likely_cause(document, policy if isinstance(policy, str) else None)
        return denied if cause is None else KeyReleaseError(f"KMS denies: {cause}", code=denied.code)

    def _check_region(self, key_arn: str) -> None:
        region = key_region(key_arn)
        if region != self._region:
            raise KeyReleaseError(
                f"the key is in {region}, this KMS client in {self._region}; start the host with the key's region",
                code="kms.region",
            )


class KmsKeyProvider:
    """Data keys under one KMS key, for `pack`; the region is the one in the key's ARN."""

    def __init__(self, key_arn: str, *, endpoint_url: str | None = None) -> None:
        self._key_arn = key_arn
        self._client = KmsClient(region=key_region(key_arn), endpoint_url=endpoint_url)

    def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
        """A new data key bound to `encryption_context`. Raises `KeyReleaseError`."""
        return self._client.generate_data_key(key_arn=self._key_arn, encryption_context=encryption_context)


class KmsKeyRewrapper:
    """Moves data keys under one KMS key, for `rewrap`, in the region that its ARN names."""

    def __init__(self, key_arn: str, *, endpoint_url: str | None = None) -> None:
        self._key_arn = key_arn
        self._client = KmsClient(region=key_region(key_arn), endpoint_url=endpoint_url)

    def rewrap(self, record: KeyRecord) -> KeyRecord:
        """The record of the same data key under the new KMS key. Raises `KeyReleaseError`."""
        if key_region(record.key_arn) != key_region(self._key_arn):
            raise KeyReleaseError(
                f"the package's key is in {key_region(record.key_arn)}, the new one in {key_region(self._key_arn)}; "
                "KMS re-encrypts within one region: name a key there, or pack the model again",
                code="kms.region",
            )
        wrapped = self._client.re_encrypt(
            wrapped_dek=record.wrapped_dek,
            encryption_context=record.encryption_context,
            from_arn=record.key_arn,
            to_arn=self._key_arn,
        )
        return replace(record, key_arn=self._key_arn, wrapped_dek=wrapped)


def key_region(key_arn: str) -> str:
    """The region in a key ARN. Raises `KeyReleaseError` for anything else, an alias or bare key id included."""
    match = _KEY_ARN.fullmatch(key_arn)
    if match is None:
        raise KeyReleaseError(
            "not a KMS key ARN (arn:aws:kms:<region>:<account>:key/<id>); an alias can be pointed at another key",
            code="kms.key_arn",
        )
    return match[1]


def _checked(answer: Mapping[str, Any], key_arn: str, member: str) -> bytes:
    if answer.get("KeyId") != key_arn:
        raise bad_answer("it names another key than the one asked for")
    value = answer.get(member)
    if not isinstance(value, bytes) or not value:
        raise bad_answer(f"{member} is missing")
    return value
