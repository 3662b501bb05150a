"""A result in words: the same rows as a table on the terminal and as Markdown for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

Row: TypeAlias = tuple[str, ...]

_SWEEP: Final = "e"
_NEIGHBOURS: Final = 0.05
TARGET_HEAD: Final = ("case", "figure", "measured", "target", "")
SERIES_HEAD: Final = ("series", "median", "p95", "p99", "min", "max", "unit", "n")


def number(value: float | None) -> str:
    """Three digits that count, no exponent; a dash for what was not measured."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def verdict(row: Mapping[str, Any]) -> str:
    """Met, missed, or why neither."""
    return {True: "met", False: "missed"}.get(row["met"], "not measured: " + str(row["reason"]))


def target_rows(result: Mapping[str, Any]) -> list[Row]:
    """Issue 3's targets beside what was measured."""
    return [
        (row["case"], row["what"], f"{number(row['value'])} {row['unit']}".strip(), row["target"], verdict(row))
        for row in result["targets"]
    ]


def series_rows(letter: str, case: Mapping[str, Any]) -> list[Row]:
    """Statistics of a case's series; the many points of a sweep are in the picture and the file."""
    rows: list[Row] = []
    for name, values in sorted(case["series"].items(), key=lambda item: item[1] is None):
        if values is None:
            rows.append((name, "–", "", "", "", "", "", ""))
        elif letter != _SWEEP:
            statistics = (number(values[key]) for key in ("p50", "p95", "p99", "min", "max"))
            rows.append((name, *statistics, values["unit"], str(values["count"])))
    return rows


def figure_rows(case: Mapping[str, Any]) -> list[Row]:
    """Ratios, differences and other numbers of a case."""
    return [(name, number(value)) for name, value in case["figures"].items()]


def disturbed(result: Mapping[str, Any]) -> str:
    """A warning where others used the CPUs beside a case: such figures say little, ratios too. Empty when none did."""
    cases = [letter for letter, case in result["cases"].items() if max(case["neighbours"]) > _NEIGHBOURS]
    if not cases:
        return ""
    return f"Other processes used more than {_NEIGHBOURS:.0%} of the CPUs beside {', '.join(cases)}: do not quote."


def absences(case: Mapping[str, Any]) -> list[str]:
    """What could not be measured, those with the same reason together."""
    names: dict[str, list[str]] = {}
    for name, reason in case["absent"].items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(together)}: {reason}" for reason, together in names.items()]


def headline(result: Mapping[str, Any]) -> str:
    """Machine, software and state of the source on a few lines."""
    about, source = result["machine"], result["source"]
    libraries = about["libraries"]
    shown = ("numpy", "onnxruntime", "torch", "sentence-transformers", "openvino", "fastembed")
    versions = ", ".join(f"{name} {libraries[name]}" for name in shown if libraries.get(name))
    commit = (source["commit"] or "unknown")[:12] + (" with changes" if source["dirty"] else "")
    load = ", ".join(f"{value:.1f}" for value in about["load_average_before"])
    quick = " A quick run: too few samples to quote." if result["quick"] else ""
    return (
        f"{about['cpu']['model'] or 'Unknown CPU'} ({' '.join(about['cpu']['flags'])}), {about['cpus_used']} of "
        f"{about['cpus']} CPUs, {about['threads']} threads, {about['memory_mb'] / 1000:.0f} GB, "
        f"Linux {about['kernel']}; "
        f"Python {about['python']}, {versions}; commit {commit}; load average before the run {load}; "
        f"{result['started'][:10]}, {result['seconds'] / 60:.0f} minutes.{quick}"
    )


def markdown(result: Mapping[str, Any], *, picture: str | None = None) -> str:
    """The section of docs/performance.md that holds figures; `picture` is the PNG's path as seen from there."""
    return "\n".join(_sections(result, picture or result["figure"])) + "\n"


def _sections(result: Mapping[str, Any], picture: str | None) -> Iterator[str]:
    model = result["model"]
    yield f"{headline(result)}\n"
    yield f"Model: {model['name']}, {model['dimension']} dimensions, at most {model['max_sequence_length']} tokens.\n"
    if warning := disturbed(result):
        yield f"**{warning}**\n"
    yield "### Targets\n"
    yield from _table(TARGET_HEAD, target_rows(result))
    for letter, case in result["cases"].items():
        yield f"\n### ({letter}) {case['title']}\n"
        if letter == _SWEEP and picture:
            yield f"![Time over tokens: {case['title']}]({picture})\n"
        if rows := series_rows(letter, case):
            yield from _table(SERIES_HEAD, rows)
            yield ""
        if rows := figure_rows(case):
            yield from _table(("figure", "value"), rows)
            yield ""
        yield "What is measured:\n"
        yield from (f"- *{name}*: {words}" for name, words in case["boundary"].items())
        if missing := absences(case):
            yield "\nNot measured:\n"
            yield from (f"- {line}" for line in missing)


def _table(head: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
