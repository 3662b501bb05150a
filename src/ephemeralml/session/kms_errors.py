"""What KMS refuses or answers wrongly, as our errors: the same whether the host asks it or the enclave does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ephemeralml.errors import KeyReleaseError

_KIND: Final = re.compile(r"\w{1,64}", re.ASCII)
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
    "throttled": "the account is over its request quota for KMS; try again later",
    "unavailable": "the fault is on its side; try again later",
    "refused": "see the error type in AWS's KMS API reference",
}


def refused(operation: str, kind: str, *, status: int, request: str = "") -> KeyReleaseError:
    """The error for a refusal of KMS: the operation asked for, AWS's error type, HTTP's status, the request's id there.

    Decrypt is asked for an enclave, all else by the model's owner or the key's administrator.
    """
    code = _CODES.get(kind) or ("throttled" if status == 429 else "unavailable" if status >= 500 else "refused")
    named = kind if _KIND.fullmatch(kind) else "unknown"
    asked = f", request {request}" if _REQUEST_ID.fullmatch(request) else ""
    advice = _ADVICE[code]
    if code == "access_denied" and operation != "Decrypt":
        advice = (
            f"these AWS credentials may not {operation}; use the model owner's or the key admin's, or have it allowed"
        )
    return KeyReleaseError(f"KMS refused ({named}{asked}): {advice}", code=f"kms.{code}")


def no_credentials() -> KeyReleaseError:
    """The error for credentials that the host does not have, or must not use so."""
    return KeyReleaseError(f"KMS was not asked: {_ADVICE['credentials']}", code="kms.credentials")


def bad_answer(why: str) -> KeyReleaseError:
    """The error for an answer that KMS would not give."""
    return KeyReleaseError(
        f"the answer on KMS's side cannot be trusted: {why}; check that the endpoint is AWS KMS or ephemeralml's own",
        code="kms.answer",
    )
