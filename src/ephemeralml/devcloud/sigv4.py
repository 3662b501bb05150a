"""AWS Signature Version 4 as the receiving side checks it.

Source: AWS IAM User Guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ephemeralml.errors import ConfigurationError

MAX_SKEW: Final = timedelta(minutes=5)
PRINCIPAL_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(user|role)/[\w+=,.@/-]{1,576}", re.ASCII)

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_ACCESS_KEY_ID: Final = re.compile(r"\w{1,128}", re.ASCII)
_AUTHORIZATION: Final = re.compile(
    rf"{_ALGORITHM} Credential=({_ACCESS_KEY_ID.pattern})/"
    r"(\d{8})/([a-z0-9-]{1,32})/([a-z0-9-]{1,32})/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]{1,1024}), ?Signature=([0-9a-f]{64})",
    re.ASCII,
)


class Refusal(Enum):
    """Why a request counts as nobody's; each service has its own names for these."""

    UNSIGNED = auto()
    INCOMPLETE = auto()
    UNKNOWN_KEY = auto()
    SCOPE = auto()
    EXPIRED = auto()
    MISMATCH = auto()


class SignatureRefusedError(Exception):
    """None of the credentials signed this request."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """What a signature covers. `path` and `query` as on the wire, `headers` in the order received, names in any case.

    `payload_hash` is the body's SHA-256 in hex, or, with S3, whatever ``x-amz-content-sha256`` says: the caller then
    compares the body with it.
    """

    method: str
    path: str
    query: str
    headers: Iterable[tuple[str, str]]
    payload_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """Checks requests to one service in one region. `credentials` are by access key id."""

    service: str
    region: str
    credentials: Mapping[str, Credential]
    must_sign: frozenset[str] = frozenset()
    """Headers a request must carry and sign, in lower case, besides ``host`` and every ``x-amz-*``."""

    def verify(self, request: SignedRequest, *, now: datetime) -> Credential:
        """The credential that signed this request; raises `SignatureRefusedError` when none of ours did."""
        values = _canonical_headers(request.headers)
        if "authorization" not in values:
            raise SignatureRefusedError(Refusal.UNSIGNED, "Missing Authentication Token")
        match = _AUTHORIZATION.fullmatch(values["authorization"])
        if match is None:
            raise SignatureRefusedError(
                Refusal.INCOMPLETE, "The Authorization header is not a complete SigV4 signature."
            )
        access_key_id, scope_date, scope_region, scope_service, signed_headers, signature = match.groups()
        credential = self.credentials.get(access_key_id)
        token = values.get("x-amz-security-token", "").encode()
        if credential is None or not hmac.compare_digest(credential.session_token.encode(), token):
            raise SignatureRefusedError(Refusal.UNKNOWN_KEY, "The security token included in the request is invalid.")
        signed = signed_headers.split(";")
        must_sign = {name for name in values if name.startswith("x-amz-")} | {"host", "x-amz-date"} | self.must_sign
        if signed != sorted(set(signed)) or not set(signed) <= values.keys() or not must_sign <= set(signed):
            raise SignatureRefusedError(
                Refusal.INCOMPLETE, "host and every x-amz-* header must be there and be signed."
            )
        if (scope_region, scope_service) != (self.region, self.service):
            raise SignatureRefusedError(Refusal.SCOPE, f"Credential should be scoped to {self.region}/{self.service}.")
        date = values["x-amz-date"]
        _check_date(date, scope_date, now)
        canonical = "\n".join(
            [
                request.method,
                quote(unquote_to_bytes(request.path), safe="/"),
                _canonical_query(request.query),
                *(f"{name}:{values[name]}" for name in signed),
                "",
                signed_headers,
                request.payload_hash,
            ]
        )
        scope = f"{scope_date}/{self.region}/{self.service}/aws4_request"
        to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{credential.secret_access_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        if not hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), signature):
            raise SignatureRefusedError(
                Refusal.MISMATCH,
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


def _canonical_query(query: str) -> str:
    pairs = []
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        pairs.append((quote(unquote_to_bytes(name), safe=""), quote(unquote_to_bytes(value), safe="")))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _check_date(date: str, scope_date: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(date, _DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureRefusedError(Refusal.INCOMPLETE, "X-Amz-Date must be in the form YYYYMMDDTHHMMSSZ.") from None
    if not date.startswith(scope_date):
        raise SignatureRefusedError(Refusal.SCOPE, "The credential scope's date is not that of X-Amz-Date.")
    if signed_at < now - MAX_SKEW:
        earliest = (now - MAX_SKEW).strftime(_DATE_FORMAT)
        raise SignatureRefusedError(Refusal.EXPIRED, f"Signature expired: {date} is now earlier than {earliest}.")
    if signed_at > now + MAX_SKEW:
        latest = (now + MAX_SKEW).strftime(_DATE_FORMAT)
        raise SignatureRefusedError(Refusal.EXPIRED, f"Signature not yet current: {date} is still later than {latest}.")
