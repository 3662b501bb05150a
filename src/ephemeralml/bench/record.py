"""A measurement by itself as JSON: its figures with their intervals, where, when and on what source it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ephemeralml.bench import machine
from ephemeralml.bench.suite.compare import median_of
from ephemeralml.bench.timing import significant


def record(
    samples: Mapping[str, Sequence[float]], *, started: datetime, about: Mapping[str, Any], neighbours: Sequence[float]
) -> dict[str, Any]:
    """Of each series the median and its 95 % interval. `about` is from `machine.describe` before the run, `neighbours`
    the share of all CPUs that others took in the second before it and the one after.
    """
    intervals = {name: median_of(values) for name, values in samples.items()}
    return {
        "kind": "measured",
        "platform": "local",
        "started": started.isoformat(timespec="seconds"),
        "source": machine.git_state(),
        "machine": dict(about),
        "neighbours": [round(share, 3) for share in neighbours],
        "figures": {
            name: {
                "median": significant(interval.value),
                "low": significant(interval.low),
                "high": significant(interval.high),
                "samples": len(samples[name]),
            }
            for name, interval in intervals.items()
        },
    }
