"""Figures as the page's tables have them: a median with its interval, a share, several results side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ephemeralml.bench.report import number
from ephemeralml.bench.suite.blocks import Items, Table
from ephemeralml.bench.suite.compare import Interval, Result, median_of


def side_by_side(what: str, names: Sequence[str], bare: Result | None, enclave: Result) -> Table:
    """A row for each series, a column for each result."""
    results = {"enclave": enclave} if bare is None else {"bare metal": bare, "enclave": enclave}
    rows = [[_label(name), *(cell(one, name) for one in results.values())] for name in names]
    return Table((what, *results), rows)


def _label(name: str) -> str:
    first, _, rest = name.partition("/")
    return (f"boot: {rest}" if first == "boot" else rest or first).replace("_", " ")


def cell(result: Result, name: str) -> str:
    """A series' median, or a dash where there is none."""
    samples = result.samples.get(name)
    return with_interval(median_of(samples)) if samples else "–"


def with_interval(interval: Interval) -> str:
    """A figure and its interval."""
    return f"{number(interval.value)} [{number(interval.low)}, {number(interval.high)}]"


def share(interval: Interval) -> str:
    """A ratio less one, as a percentage, and its interval."""
    return f"{interval.value:+.1%} [{interval.low:+.1%}, {interval.high:+.1%}]"


def boundaries(result: Result, *names: str, of: str = "") -> Items:
    """Where each of these figures begins and ends."""
    said: Mapping[str, str] = result["boundary"]
    words: Callable[[str], str] = lambda name: f"{of + ': ' if of else ''}*{name}*: {said[name]}"  # noqa: E731
    return Items([words(name) for name in names if name in said])
