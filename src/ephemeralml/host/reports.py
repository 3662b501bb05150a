"""What this host's enclaves report, added up over their restarts. Nothing of it is trusted, and all is bounded."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ephemeralml.session.hostlink import malformed
from ephemeralml.session.report import BOUNDS_MS, INTERVAL_SECONDS, REFUSALS, STAGES, Report

# One that serves and one that takes its place, and those that were there a moment ago.
_BOOTS: Final = 4
_FRESH_SECONDS: Final = 3 * INTERVAL_SECONDS


@dataclass(frozen=True, slots=True)
class _Heard:
    report: Report
    at: float


class Reports:
    """Counters that go on when an enclave is followed by another, and gauges of those that report now."""

    def __init__(self) -> None:
        self._latest: OrderedDict[bytes, _Heard] = OrderedDict()
        self._totals = [0] * (1 + len(REFUSALS) + len(STAGES) * (len(BOUNDS_MS) + 1))
        self.heard_at: float | None = None
        """When the latest came, in seconds since 1970."""

    def add(self, report: Report) -> bool:
        """Whether evidence was shown since the one before. Raises `TransportError` for one whose counters went back."""
        before = self._latest.get(report.boot)
        last: Sequence[int] = before.report.counters if before else [0] * len(self._totals)
        grown = [new - old for new, old in zip(report.counters, last, strict=True)]
        if min(grown) < 0:
            malformed("report")
        self._totals = [total + more for total, more in zip(self._totals, grown, strict=True)]
        self._latest[report.boot] = _Heard(report, time.monotonic())
        self._latest.move_to_end(report.boot)
        while len(self._latest) > _BOOTS:
            self._latest.popitem(last=False)
        self.heard_at = time.time()
        return any(self._stage(grown, "evidence"))

    def ended(self) -> None:
        """Whoever has reported is gone, and nothing of it is open any more; what it counted stays."""
        for boot, heard in self._latest.items():
            self._latest[boot] = replace(heard, at=-math.inf)

    @property
    def sessions(self) -> int:
        """Opened so far."""
        return self._totals[0]

    @property
    def refused(self) -> dict[str, int]:
        """Requests and handshakes, by why."""
        return dict(zip(REFUSALS, self._totals[1:], strict=False))

    def stage(self, name: str) -> Sequence[int]:
        """How often a stage took how long: a count for each bucket."""
        return self._stage(self._totals, name)

    @staticmethod
    def _stage(counters: Sequence[int], name: str) -> Sequence[int]:
        width = len(BOUNDS_MS) + 1
        start = 1 + len(REFUSALS) + STAGES.index(name) * width
        return counters[start : start + width]

    def now(self) -> tuple[int, int] | None:
        """Sessions open and requests in work, of all enclaves that report; None when none does."""
        since = time.monotonic() - _FRESH_SECONDS
        fresh = [heard.report for heard in self._latest.values() if heard.at >= since]
        if not fresh:
            return None
        return sum(one.sessions_open for one in fresh), sum(one.in_work for one in fresh)
