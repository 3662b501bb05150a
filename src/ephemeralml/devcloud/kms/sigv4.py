"""AWS Signature Version 4 as the receiving side checks it, for requests to ``POST /`` without a query string.

Source: AWS IAM User Guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.errors import ConfigurationError

MAX_SKEW: Final = timedelta(minutes=5)
PRINCIPAL_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(user|role)/[\w+=,.@/-]{1,576}", re.ASCII)

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "kms"
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_REQUIRED: Final = frozenset({"host", "x-amz-date", "x-amz-target"})
_ACCESS_KEY_ID: Final = re.compile(r"\w{1,128}", re.ASCII)
_AUTHORIZATION: Final = re.compile(
    rf"{_ALGORITHM} Credential=({_ACCESS_KEY_ID.pattern})/"
    r"(\d{8})/([a-z0-9-]{1,32})/([a-z0-9-]{1,32})/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]{1,1024}), ?Signature=([0-9a-f]{64})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key and the IAM principal it speaks for, ``arn:aws:iam::<account>:role/<name>`` or ``:user/<name>``.

    Temporary ones have a session token. Raises `ConfigurationError` for an access key id or principal that no request
    or key policy could name.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    principal_arn: str
    session_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if _ACCESS_KEY_ID.fullmatch(self.access_key_id) is None or not self.secret_access_key:
            raise ConfigurationError("an access key id is letters, digits and _, with a secret", code="kms.credential")
        if PRINCIPAL_ARN.fullmatch(self.principal_arn) is None:
            raise ConfigurationError(f"{self.principal_arn!r} is no IAM user or role ARN", code="kms.credential")


def verify(
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    credentials: Mapping[str, Credential],
    region: str,
    now: datetime,
) -> Credential:
    """The credential that signed this request; raises `ApiError` with AWS's error type when none of ours did.

    `headers` are all header fields in the order received, names in any case; `credentials` are by access key id.
    """
    values = _canonical_headers(headers)
    if "authorization" not in values:
        raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(values["authorization"])
    if match is None:
        raise ApiError("IncompleteSignatureException", "The Authorization header is not a complete SigV4 signature.")
    access_key_id, scope_date, scope_region, scope_service, signed_headers, signature = match.groups()
    credential = credentials.get(access_key_id)
    token = values.get("x-amz-security-token", "").encode()
    if credential is None or not hmac.compare_digest(credential.session_token.encode(), token):
        raise ApiError("UnrecognizedClientException", "The security token included in the request is invalid.")
    signed = signed_headers.split(";")
    must_sign = {name for name in values if name.startswith("x-amz-")} | _REQUIRED
    if signed != sorted(set(signed)) or not set(signed) <= values.keys() or not must_sign <= set(signed):
        raise ApiError("IncompleteSignatureException", "host and every x-amz-* header must be there and be signed.")
    if (scope_region, scope_service) != (region, _SERVICE):
        raise ApiError("InvalidSignatureException", f"Credential should be scoped to {region}/{_SERVICE}.")
    date = values["x-amz-date"]
    _check_date(date, scope_date, now)
    canonical = "\n".join(
        [
            "POST",
            "/",
            "",
            *(f"{name}:{values[name]}" for name in signed),
            "",
            signed_headers,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{scope_date}/{region}/{_SERVICE}/aws4_request"
    to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credential.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), signature):
        raise ApiError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
        )
    return credential


def _canonical_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in headers:
        lowered, trimmed = name.lower(), " ".join(value.split())
        values[lowered] = f"{values[lowered]},{trimmed}" if lowered in values else trimmed
    return values


def _check_date(date: str, scope_date: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(date, _DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise ApiError("IncompleteSignatureException", "X-Amz-Date must be in the form YYYYMMDDTHHMMSSZ.") from None
    if not date.startswith(scope_date):
        raise ApiError("InvalidSignatureException", "The credential scope's date is not that of X-Amz-Date.")
    if signed_at < now - MAX_SKEW:
        earliest = (now - MAX_SKEW).strftime(_DATE_FORMAT)
        raise ApiError("InvalidSignatureException", f"Signature expired: {date} is now earlier than {earliest}.")
    if signed_at > now + MAX_SKEW:
        latest = (now + MAX_SKEW).strftime(_DATE_FORMAT)
        raise ApiError("InvalidSignatureException", f"Signature not yet current: {date} is still later than {latest}.")
