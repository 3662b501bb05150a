from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ephemeralml.errors import ConfigurationError
from ephemeralml.session.limits import REQUEST_BYTES, Limits
from ephemeralml.session.records import MAX_PLAINTEXT, MAX_REQUEST, padded_size

NAMES = [item.name for item in fields(Limits)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "10", None, 2**40 + 1])
def test_every_limit_is_a_positive_integer(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{name: value})
    assert caught.value.code == "configuration.limit"
    assert name in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_one_is_a_limit(name: str) -> None:
    assert getattr(Limits(**{name: 1}), name) == 1


def test_requests_fit_a_record() -> None:
    assert Limits(request_bytes=REQUEST_BYTES).request_bytes == REQUEST_BYTES
    with pytest.raises(ConfigurationError):
        Limits(request_bytes=REQUEST_BYTES + 1)


def test_sessions_are_short_enough_for_their_receipts() -> None:
    assert Limits(lifetime_seconds=3 * 3600).lifetime_seconds == 3 * 3600
    with pytest.raises(ConfigurationError):
        Limits(lifetime_seconds=3 * 3600 + 1)


def test_a_session_may_hold_a_request_of_the_largest_size() -> None:
    limits = Limits()
    assert padded_size(MAX_REQUEST) == REQUEST_BYTES < limits.session_bytes <= limits.total_bytes
    assert limits.text_bytes < limits.request_bytes < MAX_REQUEST < MAX_PLAINTEXT
