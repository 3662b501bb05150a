"""One HTTP status for each kind of error, and whether to come again."""

from __future__ import annotations

import pytest

from ephemeralml.errors import (
    AttestationError,
    BusyError,
    PackageError,
    PolicyError,
    ReceiptError,
    RequestError,
    SessionError,
    TransportError,
)
from ephemeralml.gateway.problem import RefusedError, problem_of


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (RequestError("m", code="request.texts"), 400, {}),
        (RequestError("m", code="request.size"), 413, {}),
        (RequestError("m", code="internal"), 500, {}),
        (BusyError("m", retry_after=2.001), 503, {"Retry-After": "3"}),
        (BusyError("m", retry_after=0), 503, {"Retry-After": "1"}),
        (TransportError("m", code="session.lost"), 503, {"Retry-After": "1"}),
        (AttestationError("m", step="chain", code="c"), 503, {"x-should-retry": "false"}),
        (PackageError("m", code="manifest.owner"), 503, {"x-should-retry": "false"}),
        (SessionError("m", code="record.open"), 502, {}),
        (ReceiptError("m", layer=2, code="c"), 502, {}),
        (PolicyError("m", code="c"), 500, {}),
        (RefusedError("m", code="c", status=429, retry_after=1.0), 429, {"Retry-After": "1"}),
        (RefusedError("m", code="c", status=401), 401, {"WWW-Authenticate": "Bearer"}),
    ],
)
def test_status_and_headers(error: Exception, status: int, headers: dict[str, str]) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.headers, problem.message) == (status, headers, "m")


def test_nothing_is_told_of_what_is_not_ours() -> None:
    problem = problem_of(ValueError("secret"))
    assert (problem.status, problem.code) == (500, "internal")
    assert "secret" not in problem.message
