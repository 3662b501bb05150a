"""Layer 4: what one relying party asks of a receipt beyond its being genuine."""

from __future__ import annotations

import time
from collections.abc import MutableSet
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from cryptography.hazmat.primitives.constant_time import bytes_eq

from ephemeralml.errors import PolicyError, ReceiptError
from ephemeralml.receipts.claims import Claims

POLICY_CHECKS: Final = ("FRESH", "NONCE", "MODEL", "PLATFORM", "REPLAY")
"""Every check of layer 4, in the order they run."""

CLOCK_SKEW_SECS: Final = 300
"""How far two honest clocks may differ: the tolerance for an `iat` ahead of the verifier's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPolicy:
    """The checks a caller asks for; a field left None is a check that does not run, and the `Receipt` says so.

    - ``max_age_secs``: FRESH. The receipt is at most this old at `at` (aware; *now* when None).
    - ``expected_nonce``: NONCE. The `eat_nonce` the caller sent.
    - ``expected_model_hash``: MODEL. 32 bytes.
    - ``expected_platform``: PLATFORM. A measurement_type, ``nitro-pcr`` or ``tdx-mrtd-rtmr``.
    - ``seen``: REPLAY. Every `cti` accepted so far. The caller owns it, bounds it and shares it between threads under
      its own lock; an accepted receipt's cti is added.

    Raises `PolicyError` for an age that is not positive, or a time that is naive or has no age to go with.
    """

    expected_model_hash: bytes | None = None
    expected_nonce: bytes | None = None
    expected_platform: str | None = None
    max_age_secs: int | None = None
    at: datetime | None = None
    seen: MutableSet[bytes] | None = None

    def __post_init__(self) -> None:
        if self.max_age_secs is not None and self.max_age_secs <= 0:
            raise PolicyError("max_age_secs must be positive", code="policy.max_age")
        if self.at is not None and self.at.tzinfo is None:
            raise PolicyError("at must be timezone-aware", code="policy.time")
        if self.at is not None and self.max_age_secs is None:
            raise PolicyError("at does nothing without max_age_secs", code="policy.time")

    def check(self, claims: Claims) -> tuple[str, ...]:
        """Run the checks asked for and return their names. Raises `ReceiptError` (layer 4) on the first that fails."""
        ran = []
        if self.max_age_secs is not None:
            ran.append("FRESH")
            _check_fresh(claims.iat, self.max_age_secs, self.at)
        if self.expected_nonce is not None:
            ran.append("NONCE")
            if claims.eat_nonce is None:
                _refuse("NONCE_MISSING", "the receipt carries no eat_nonce and one is expected")
            if not bytes_eq(claims.eat_nonce, self.expected_nonce):
                _refuse("NONCE_MISMATCH", "eat_nonce is not the one expected: the receipt answers another request")
        if self.expected_model_hash is not None:
            ran.append("MODEL")
            if not bytes_eq(claims.model_hash, self.expected_model_hash):
                _refuse("MODEL_HASH_MISMATCH", "model_hash is not the one expected: another model answered")
        if self.expected_platform is not None:
            ran.append("PLATFORM")
            if claims.enclave_measurements.measurement_type != self.expected_platform:
                _refuse("PLATFORM_MISMATCH", "measurement_type is not the one expected")
        # Last, so that a refused receipt does not use up its cti.
        if self.seen is not None:
            ran.append("REPLAY")
            if claims.cti in self.seen:
                _refuse("REPLAY_CTI", "a receipt with this cti was accepted before")
            self.seen.add(claims.cti)
        return tuple(ran)


def _check_fresh(iat: int, max_age_secs: int, at: datetime | None) -> None:
    now = time.time() if at is None else at.timestamp()
    if iat > now + CLOCK_SKEW_SECS:
        _refuse("TIMESTAMP_FUTURE", "iat is in the future")
    if iat < now - max_age_secs:
        _refuse("TIMESTAMP_STALE", f"iat is more than {max_age_secs} s old")


def _refuse(code: str, message: str) -> NoReturn:
    raise ReceiptError(message, layer=4, code=code)
