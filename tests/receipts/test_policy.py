"""Layer 4: each check passes, fails with its code, and shows when nobody asked for it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from ephemeralml.errors import PolicyError, ReceiptError
from ephemeralml.receipts import Claims, ReceiptPolicy
from ephemeralml.receipts.policy import CLOCK_SKEW_SECS


def issued(claims: Claims) -> datetime:
    return datetime.fromtimestamp(claims.iat, UTC)


def refused(policy: ReceiptPolicy, claims: Claims) -> str:
    with pytest.raises(ReceiptError) as caught:
        policy.check(claims)
    assert caught.value.layer == 4
    return caught.value.code


def test_every_check_that_was_asked_for_ran(claims: Claims) -> None:
    policy = ReceiptPolicy(
        expected_model_hash=claims.model_hash,
        expected_nonce=claims.eat_nonce,
        expected_platform="nitro-pcr",
        max_age_secs=60,
        at=issued(claims),
        seen=set(),
    )
    assert policy.check(claims) == ("FRESH", "NONCE", "MODEL", "PLATFORM", "REPLAY")
    assert ReceiptPolicy().check(claims) == ()


def test_freshness_has_two_sides(claims: Claims) -> None:
    def at(seconds: int) -> ReceiptPolicy:
        return ReceiptPolicy(max_age_secs=60, at=issued(claims) + timedelta(seconds=seconds))

    assert at(60).check(claims) == ("FRESH",)
    assert refused(at(61), claims) == "TIMESTAMP_STALE"
    assert at(-CLOCK_SKEW_SECS).check(claims) == ("FRESH",)
    assert refused(at(-CLOCK_SKEW_SECS - 1), claims) == "TIMESTAMP_FUTURE"


def test_freshness_is_of_now_by_default(claims: Claims) -> None:
    now = int(datetime.now(UTC).timestamp())
    policy = ReceiptPolicy(max_age_secs=3600)
    assert policy.check(dataclasses.replace(claims, iat=now)) == ("FRESH",)
    assert refused(policy, dataclasses.replace(claims, iat=now - 3700)) == "TIMESTAMP_STALE"
    assert refused(policy, dataclasses.replace(claims, iat=2**64 - 1)) == "TIMESTAMP_FUTURE"


def test_freshness_knows_time_zones(claims: Claims) -> None:
    tokyo = issued(claims).astimezone(timezone(timedelta(hours=9)))
    assert ReceiptPolicy(max_age_secs=1, at=tokyo).check(claims) == ("FRESH",)


@pytest.mark.parametrize("expected", [b"", b"n" * 31, b"n" * 31 + b"m", b"n" * 33])
def test_another_nonce_is_refused(claims: Claims, expected: bytes) -> None:
    assert refused(ReceiptPolicy(expected_nonce=expected), claims) == "NONCE_MISMATCH"


def test_an_absent_nonce_is_refused_when_one_is_expected(claims: Claims) -> None:
    bare = dataclasses.replace(claims, eat_nonce=None)
    assert refused(ReceiptPolicy(expected_nonce=b"n" * 32), bare) == "NONCE_MISSING"


def test_another_model_or_platform_is_refused(claims: Claims) -> None:
    assert refused(ReceiptPolicy(expected_model_hash=b"\x12" * 32), claims) == "MODEL_HASH_MISMATCH"
    assert refused(ReceiptPolicy(expected_model_hash=b""), claims) == "MODEL_HASH_MISMATCH"
    assert refused(ReceiptPolicy(expected_platform="tdx-mrtd-rtmr"), claims) == "PLATFORM_MISMATCH"
    assert refused(ReceiptPolicy(expected_platform=""), claims) == "PLATFORM_MISMATCH"


def test_a_receipt_counts_once(claims: Claims) -> None:
    seen: set[bytes] = set()
    policy = ReceiptPolicy(seen=seen)
    assert policy.check(claims) == ("REPLAY",)
    assert seen == {claims.cti}
    assert refused(policy, claims) == "REPLAY_CTI"
    assert policy.check(dataclasses.replace(claims, cti=b"y" * 16)) == ("REPLAY",)


def test_a_refused_receipt_does_not_use_up_its_cti(claims: Claims) -> None:
    seen: set[bytes] = set()
    refused(ReceiptPolicy(seen=seen, expected_platform="tdx-mrtd-rtmr"), claims)
    assert seen == set()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_age_secs": 0},
        {"max_age_secs": -1},
        {"max_age_secs": 60, "at": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"at": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_policy_that_would_check_nothing_cannot_be_built(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        ReceiptPolicy(**fields)
