"""Statistics of known samples, and the order in which cases run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.bench.timing import interleave, median, median_ratio, percentile, ratio_of_medians, summarise

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


def test_known_samples() -> None:
    summary = summarise([float(value) for value in range(100, 0, -1)])
    assert (summary.p50, summary.p95, summary.p99) == (50.5, 95, 99)
    assert (summary.min, summary.max, summary.mean, summary.count) == (1, 100, 50.5, 100)


def test_one_sample_is_every_statistic() -> None:
    summary = summarise([7.0])
    assert {summary.p50, summary.p95, summary.p99, summary.min, summary.max, summary.mean} == {7.0}


def test_no_samples_are_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


@given(SAMPLES, st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_was_seen_and_covers_its_share(samples: list[float], percent: int) -> None:
    value = percentile(samples, percent)
    assert value in samples
    assert sum(sample <= value for sample in samples) * 100 >= percent * len(samples)
    assert sum(sample < value for sample in samples) * 100 < percent * len(samples)


@given(SAMPLES)
def test_statistics_are_in_order(samples: list[float]) -> None:
    summary = summarise(samples)
    assert summary.min <= summary.p50 <= summary.p95 <= summary.p99 <= summary.max


def test_json_has_the_unit_and_four_digits() -> None:
    assert summarise([1.23456]).to_json("ms") == {
        "unit": "ms", "count": 1, "mean": 1.235, "p50": 1.235, "p95": 1.235, "p99": 1.235, "min": 1.235, "max": 1.235,
    }  # fmt: skip


def test_ratios() -> None:
    # One round with a neighbour, which both suffered: the paired ratio does not show it.
    ours, theirs = [1.0, 1.0, 10.0], [2.0, 4.0, 30.0]
    assert ratio_of_medians(theirs, ours) == 4
    assert median_ratio(theirs, ours) == 3
    assert median([1.0, 2.0]) == 1.5


def test_unpaired_rounds_have_no_paired_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0, 2.0], [1.0])


class Clock:
    """A clock that calls move on, by as much as they say they take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += seconds

        return run


def test_each_round_runs_each_case_once_in_turned_order() -> None:
    clock = Clock()
    cases = {name: clock.call(name, seconds) for name, seconds in (("a", 0.001), ("b", 0.002), ("c", 0.003))}
    samples = interleave(
        cases, rounds=3, warmups=1, lead=0, clock=lambda: clock.now, sleep=lambda seconds: clock.calls.append("-")
    )
    assert "".join(clock.calls) == "-a-b-c-b-c-a-c-a-b-a-b-c"
    assert {name: [round(value, 6) for value in values] for name, values in samples.items()} == {
        "a": [1] * 3, "b": [2] * 3, "c": [3] * 3,
    }  # fmt: skip


def test_short_calls_are_led_up_to_and_long_ones_are_not() -> None:
    clock = Clock()
    cases = {"short": clock.call("short", 0.25), "long": clock.call("long", 2.0)}
    interleave(cases, rounds=1, warmups=1, lead=1.0, settle=0, clock=lambda: clock.now)
    # The first round knows of none how long it takes.
    assert clock.calls == ["short"] * 5 + ["long"] * 2 + ["long"] + ["short"] * 5


def test_a_case_that_fails_ends_the_run() -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        interleave({"ok": lambda: None, "bad": fail}, rounds=1, settle=0, lead=0)
