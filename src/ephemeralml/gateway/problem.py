"""What a caller is told when there is no answer: one HTTP status for each kind of error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ephemeralml.errors import (
    AttestationError,
    BusyError,
    EphemeralMLError,
    PackageError,
    ReceiptError,
    RequestError,
    SessionError,
    TransportError,
)

# Refusals that are the enclave's own failure: the same request may well do later.
_ENCLAVE_FAILED = frozenset({"internal", "inference.engine"})
_AWAY_SECONDS = 1.0


class RefusedError(EphemeralMLError):
    """What the gateway itself refuses; nothing of it was sent. `param` names the field at fault."""

    def __init__(
        self, message: str, *, code: str, status: int = 400, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.param = param
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as HTTP has it. `type` is OpenAI's, `step` the step of the verdict that failed, times in seconds."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    step: str | None = None
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After`` where waiting helps; where it does not, the word by which OpenAI's clients stop trying."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.code == "request.framing":
            headers["Connection"] = "close"
        if self.retry_after is not None:
            # Whole seconds (RFC 9110, section 10.2.3), never sooner than asked for.
            return headers | {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return headers | {"x-should-retry": "false"} if self.step else headers


def problem_of(error: Exception) -> Problem:
    """The problem that an error is. Of one that is not ours nothing is told: it may have a text in it."""
    if not isinstance(error, EphemeralMLError):
        return Problem(status=500, type="server_error", code="internal", message="the gateway failed on this request")
    match error:
        case RefusedError():
            kind = {401: "authentication_error", 429: "rate_limit_error"}.get(error.status, "invalid_request_error")
            return _told(error, error.status, kind, param=error.param, retry_after=error.retry_after)
        case RequestError() if error.code in _ENCLAVE_FAILED:
            return _told(error, 500, "server_error")
        case RequestError():
            return _told(error, 413 if error.code == "request.size" else 400, "invalid_request_error")
        case BusyError():
            return _told(error, 503, "overloaded_error", retry_after=error.retry_after)
        case TransportError():
            return _told(error, 503, "unavailable_error", retry_after=_AWAY_SECONDS)
        case AttestationError():
            return _told(error, 503, "attestation_error", step=error.step)
        case PackageError():
            return _told(error, 503, "attestation_error", step="manifest")
        case SessionError() | ReceiptError():
            return _told(error, 502, "verification_error")
    return _told(error, 500, "server_error")


def _told(
    error: EphemeralMLError,
    status: int,
    kind: str,
    *,
    param: str | None = None,
    step: str | None = None,
    retry_after: float | None = None,
) -> Problem:
    return Problem(
        status=status,
        type=kind,
        code=error.code,
        message=str(error),
        param=param,
        step=step,
        retry_after=retry_after,
    )
