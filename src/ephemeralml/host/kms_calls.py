"""One call of AWS KMS: credentials from boto3's default chain, time limits, retries, and its errors mapped to ours.

Retries are botocore's standard mode: throttling, 5xx and lost connections, with jittered exponential back-off; a
refusal is never asked twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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

_PATIENT: Final = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
# For what is only said beside an error.
_BRIEF: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})
_CREDENTIAL_ERRORS: Final = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)

# AWS's error type → our code; what to do, by our code.
_CODES: Final[Mapping[str, str]] = {
    "AccessDeniedException": "access_denied",
    "DisabledException": "disabled",
    "KMSInvalidStateException": "disabled",
    "IncorrectKeyException": "ciphertext",
    "InvalidCiphertextException": "ciphertext",
    "InvalidArnException": "not_found",
    "NotFoundException": "not_found",
    "ValidationException": "validation",
    "MalformedPolicyDocumentException": "policy",
    "LimitExceededException": "limit",
    "ExpiredTokenException": "credentials",
    "IncompleteSignatureException": "credentials",
    "InvalidClientTokenId": "credentials",
    "InvalidSignatureException": "credentials",
    "MissingAuthenticationTokenException": "credentials",
    "UnrecognizedClientException": "credentials",
    "ThrottlingException": "throttled",
    "DependencyTimeoutException": "unavailable",
    "KMSInternalException": "unavailable",
    "KeyUnavailableException": "unavailable",
}
_ADVICE: Final[Mapping[str, str]] = {
    "access_denied": "the key policy does not allow this role, enclave measurement or encryption context; "
    "compare its conditions with the measurements of the running image",
    "disabled": "the owner has disabled or scheduled the key for deletion",
    "ciphertext": "the wrapped key was changed, belongs to another key, or its encryption context differs; "
    "fetch the package again",
    "not_found": "the key named in the package does not exist there; check region, account and endpoint",
    "validation": "the attestation document or another parameter is malformed, expired or not signed by a root the "
    "service trusts; ask the enclave for a fresh document",
    "policy": "the key policy is malformed, names a principal that does not exist, or would lock its author out; "
    "use the admin's credentials",
    "limit": "a quota of the account or the key is used up; see AWS's KMS quotas",
    "credentials": "this machine's AWS credentials were not accepted; check them, the region and the clock",
    "throttled": "the account is over its request quota for KMS, also after retries; try again later",
    "unavailable": "the fault is on its side, also after retries; try again later",
    "refused": "see the error type in AWS's KMS API reference",
}


class KmsCalls:
    """KMS in one region. Safe to use from several threads."""

    def __init__(self, *, region: str, endpoint_url: str | None = None) -> None:
        """`endpoint_url` None is AWS's own. Raises `ConfigurationError` for a region or address that cannot work."""
        try:
            # A session of its own: boto3's default one is global state.
            session = boto3.session.Session()
            self._patient, self._brief = (
                session.client("kms", region_name=region, endpoint_url=endpoint_url, config=config)
                for config in (_PATIENT, _BRIEF)
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"no KMS client for {endpoint_url or region}: {error}", code="kms.client"
            ) from error

    def call(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        """KMS's answer to an operation (its boto3 name), after at most three attempts of 13 seconds.

        Raises `KeyReleaseError`, its code ``kms.`` and why.
        """
        return _call(self._patient, operation, parameters)

    def call_briefly(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        """As `call`, with one attempt of 3 seconds."""
        return _call(self._brief, operation, parameters)


def bad_answer(why: str) -> KeyReleaseError:
    """The error for an answer that KMS would not give."""
    return KeyReleaseError(
        f"the answer on KMS's side cannot be trusted: {why}; check that the endpoint is AWS KMS or ephemeralml's own",
        code="kms.answer",
    )


def _call(client: Any, operation: str, parameters: Mapping[str, object]) -> Mapping[str, Any]:
    try:
        answer: Mapping[str, Any] = getattr(client, operation)(**parameters)
    except ClientError as error:
        raise _refusal(error) from error
    except _CREDENTIAL_ERRORS as error:
        raise KeyReleaseError(f"KMS was not asked: {_ADVICE['credentials']}", code="kms.credentials") from error
    # botocore lets its parsers' own errors through when the answer is not KMS's.
    except (ResponseParserError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise bad_answer("it is not an answer of KMS") from error
    except BotoCoreError as error:
        raise KeyReleaseError(
            f"KMS did not answer ({type(error).__name__}); check this host's network and the endpoint, then retry",
            code="kms.unreachable",
        ) from error
    return answer


def _refusal(error: ClientError) -> KeyReleaseError:
    kind = str(error.response.get("Error", {}).get("Code", "unknown"))[:64]
    metadata = error.response.get("ResponseMetadata", {})
    status, request = metadata.get("HTTPStatusCode", 0), str(metadata.get("RequestId", ""))
    code = _CODES.get(kind) or ("throttled" if status == 429 else "unavailable" if status >= 500 else "refused")
    named = f", request {request}" if _REQUEST_ID.fullmatch(request) else ""
    return KeyReleaseError(f"KMS refused ({kind}{named}): {_ADVICE[code]}", code=f"kms.{code}")
