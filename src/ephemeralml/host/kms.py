"""AWS KMS through boto3: release for an attested enclave (the host's key broker) and data keys (the owner's `pack`).

Credentials come from boto3's default chain. Every failure is a `KeyReleaseError` whose code starts with ``kms.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from ephemeralml.errors import ConfigurationError, KeyReleaseError
from ephemeralml.package import DataKey
from ephemeralml.session.kms_errors import bad_answer, no_credentials, refused

PROVIDER: Final = "aws-kms"

_KEY_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:kms:([a-z0-9-]{1,32}):\d{12}:key/([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})",
    re.ASCII,
)
_CONFIG: Final = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
_CREDENTIAL_ERRORS: Final = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError)


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
        try:
            # A session of its own: boto3's default one is global state.
            session = boto3.session.Session()
            self._kms = session.client("kms", region_name=region, endpoint_url=endpoint_url, config=_CONFIG)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"no KMS client for {endpoint_url or region}: {error}", code="kms.client"
            ) from error

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
        answer = self._call(
            "decrypt",
            KeyId=key_arn,
            CiphertextBlob=wrapped_dek,
            EncryptionContext=dict(encryption_context),
            EncryptionAlgorithm="SYMMETRIC_DEFAULT",
            Recipient={"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": attestation_document},
        )
        if answer.get("Plaintext"):
            raise bad_answer("it carries the key in plaintext, as if no Recipient had been asked for")
        return ReleasedKey(key_arn, _checked(answer, key_arn, "CiphertextForRecipient"))

    def generate_data_key(self, *, key_arn: str, encryption_context: Mapping[str, str]) -> DataKey:
        """A new 32-byte data key, in plaintext and wrapped. Raises `KeyReleaseError`."""
        self._check_region(key_arn)
        context = dict(encryption_context)
        answer = self._call("generate_data_key", KeyId=key_arn, KeySpec="AES_256", EncryptionContext=context)
        plaintext, wrapped = _checked(answer, key_arn, "Plaintext"), _checked(answer, key_arn, "CiphertextBlob")
        if len(plaintext) != 32:
            raise bad_answer(f"a data key of {len(plaintext)} bytes instead of 32")
        return DataKey(plaintext=plaintext, wrapped=wrapped, key_arn=key_arn, provider=PROVIDER)

    def _check_region(self, key_arn: str) -> None:
        region = key_region(key_arn)
        if region != self._region:
            raise KeyReleaseError(
                f"the key is in {region}, this KMS client in {self._region}; start the host with the key's region",
                code="kms.region",
            )

    def _call(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = getattr(self._kms, operation)(**parameters)
        except ClientError as error:
            raise refused(str(error.response.get("Error", {}).get("Code", ""))) from error
        except _CREDENTIAL_ERRORS as error:
            raise no_credentials() from error
        # botocore lets its parsers' own errors through when the answer is not KMS's.
        except (ResponseParserError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise bad_answer("it is not an answer of KMS") from error
        except BotoCoreError as error:
            raise KeyReleaseError(
                f"KMS did not answer ({type(error).__name__}); check this host's network and the endpoint, then retry",
                code="kms.unreachable",
            ) from error
        return answer


class KmsKeyProvider:
    """Data keys under one KMS key, for `pack`; the region is the one in the key's ARN."""

    def __init__(self, key_arn: str, *, endpoint_url: str | None = None) -> None:
        self._key_arn = key_arn
        self._client = KmsClient(region=key_region(key_arn), endpoint_url=endpoint_url)

    def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
        """A new data key bound to `encryption_context`. Raises `KeyReleaseError`."""
        return self._client.generate_data_key(key_arn=self._key_arn, encryption_context=encryption_context)


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
