"""Interleaved runs and the statistics of their samples.

Every round runs each case once, so that a machine that slows down or has a neighbour does so to all cases alike;
ratios are of such rounds. Nothing here knows what is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Call: TypeAlias = Callable[[], object]

SETTLE_SECONDS: Final = 0.02
"""Between two cases: threads of the one before stop spinning (a few milliseconds in the runtimes measured)."""
LEAD_SECONDS: Final = 0.04
"""Untimed calls before a timed one. After a rest calls take twice as long, the first eight or so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Statistics of one case's samples, in the samples' unit."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    min: float
    max: float

    def to_json(self, unit: str) -> dict[str, float | int | str]:
        """With its unit, four significant digits."""
        values = {name: significant(getattr(self, name)) for name in ("mean", "p50", "p95", "p99", "min", "max")}
        return {"unit": unit, "count": self.count, **values}


def summarise(samples: Sequence[float]) -> Summary:
    """Raises `ValueError` for no samples: there is no such thing as a figure that was not measured."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return Summary(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=median(ordered),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        min=ordered[0],
        max=ordered[-1],
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank): one that was really seen."""
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the two in the middle."""
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> float:
    """How many times `above` is `below`, by their medians."""
    return median(above) / median(below)


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios round by round: what both suffered at the same time falls out."""
    return median([a / b for a, b in zip(above, below, strict=True)])


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many digits that count."""
    return float(f"{value:.{digits}g}")


def interleave(
    cases: Mapping[str, Call],
    *,
    rounds: int,
    warmups: int = 2,
    lead: float = LEAD_SECONDS,
    settle: float = SETTLE_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Milliseconds of one call of each case in each round, after `warmups` discarded rounds.

    The order is turned by one each round, so that no case always follows the same neighbour's leavings. Before each
    timed call the case is called untimed for `lead` seconds, as in steady use; one that takes longer by itself is not.
    """
    names = list(cases)
    samples: dict[str, list[float]] = {name: [] for name in names}
    last = dict.fromkeys(names, 0.0)
    for number in range(warmups + rounds):
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            call = cases[name]
            if settle:
                sleep(settle)
            begin = start = clock()
            while last[name] < lead and start - begin < lead:
                call()
                start = clock()
            call()
            last[name] = clock() - start
            if number >= warmups:
                samples[name].append(last[name] * 1000)
    return samples
