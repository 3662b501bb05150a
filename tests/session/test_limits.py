from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ephemeralml.errors import ConfigurationError
from ephemeralml.session.limits import RECORD_FRAME_BYTES, Limits
from ephemeralml.session.records import MAX_PLAINTEXT, padded_size

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


def test_requests_fit_a_frame() -> None:
    assert Limits(request_bytes=RECORD_FRAME_BYTES // 2).request_bytes == RECORD_FRAME_BYTES // 2
    with pytest.raises(ConfigurationError):
        Limits(request_bytes=RECORD_FRAME_BYTES // 2 + 1)


def test_a_session_may_hold_a_request_of_the_largest_size() -> None:
    limits = Limits()
    assert limits.request_bytes <= MAX_PLAINTEXT
    assert padded_size(limits.request_bytes) <= limits.session_bytes <= limits.total_bytes
