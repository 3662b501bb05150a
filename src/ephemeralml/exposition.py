"""Metrics as Prometheus reads them (text format 0.0.4): written, and read back strictly."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

from ephemeralml.errors import CodecError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_BYTES: Final = 1 << 20
"""Of a text that is read."""

Labels: TypeAlias = Mapping[str, str]
Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name, with its suffix, and its labels by name."""

_SAMPLE: Final = re.compile(r"([a-z_]{1,100})(?:\{(.*)\})? (\S{1,40})")
_LABEL: Final = re.compile(r'([a-z_]{1,40})="((?:[^"\\\n]|\\[\\"n])*)"(?:,(?=.)|$)')
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
_CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")
# Codes come from an enclave or a relay, too: neither must make us keep a series for each word that it can think of.
_MOST_CODES: Final = 64
_OTHER: Final = "other"
_ESCAPES: Final = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its full name (unit and, of a counter, ``_total`` last), its kind, what it says, its labels' names."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a family; `suffix` is one of a histogram's."""

    value: float
    labels: Labels
    suffix: str = ""


def sample(value: float, **labels: str) -> Sample:
    """A counter's or gauge's value."""
    return Sample(value, labels)


class ByCode:
    """Counts by an error's code; from a 65th code on, and for what is no code, under ``other``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, code: str) -> None:
        """Count one."""
        if not _CODE.fullmatch(code) or (code not in self._counts and len(self._counts) >= _MOST_CODES):
            code = _OTHER
        self._counts[code] += 1

    def samples(self) -> list[Sample]:
        """One for each code."""
        return [sample(count, code=code) for code, count in sorted(self._counts.items())]


def histogram(bounds: Sequence[float], counts: Sequence[int], *, total: float | None, **labels: str) -> list[Sample]:
    """The samples of one histogram: `counts` has one for each bound, not cumulative, and one for what is above.

    `total` is the sum of what was observed; without it there is no ``_sum``, which the format allows.
    """
    sums = list(accumulate(counts))
    samples = [
        Sample(value, {**labels, "le": bound}, "_bucket")
        for bound, value in zip((*map(_number, bounds), "+Inf"), sums, strict=True)
    ]
    if total is not None:
        samples.append(Sample(total, labels, "_sum"))
    return [*samples, Sample(sums[-1], labels, "_count")]


def render(families: Iterable[tuple[Family, Sequence[Sample]]]) -> str:
    """The text; a family without samples is left out."""
    return "".join(line for family, samples in families if samples for line in _lines(family, samples))


def _lines(family: Family, samples: Sequence[Sample]) -> Iterator[str]:
    yield f"# HELP {family.name} {family.meaning}\n# TYPE {family.name} {family.kind}\n"
    for one in samples:
        assert tuple(name for name in one.labels if name != "le") == family.labels, family.name
        inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in one.labels.items())
        yield f"{family.name}{one.suffix}{f'{{{inner}}}' if inner else ''} {_number(one.value)}\n"


def _escaped(value: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in value)


def _number(value: float) -> str:
    # 1 and not 1.0: a bound is a label, and found by its text.
    whole = float(value).is_integer() and abs(value) < 2**53
    return str(int(value)) if whole else str(value)


def read(text: str) -> dict[Key, float]:
    """The samples of a text as `render` writes it. Raises `CodecError` (``metrics.malformed``) for anything else."""
    found: dict[Key, float] = {}
    if len(text) > MAX_BYTES:
        raise _malformed("it is too long")
    # Not `splitlines`, which knows more line breaks than the format does.
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            continue
        match = _SAMPLE.fullmatch(line)
        value = float(match[3]) if match and _NUMBER.fullmatch(match[3]) else math.nan
        if match is None or not math.isfinite(value):
            raise _malformed("a line is no sample of a number")
        key = match[1], _labels(match[2] or "")
        if key in found:
            raise _malformed("it has a sample twice")
        found[key] = value
    return found


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None or match[1] in labels:
            raise _malformed("a sample's labels are none")
        labels[match[1]] = re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), match[2])
        at = match.end()
    if "le" in labels and labels["le"] != "+Inf" and not _NUMBER.fullmatch(labels["le"]):
        raise _malformed("a bucket's bound is no number")
    return tuple(sorted(labels.items()))


def _malformed(why: str) -> CodecError:
    return CodecError(f"what was read are no metrics of ours: {why}; check the address", code="metrics.malformed")
