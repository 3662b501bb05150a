"""Texts packed into the few shapes of an engine that compiles for every new one, and never gives that memory back.

Several texts share a row, each attending to itself alone: hardly anything is padding, and a handful of shapes do.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, int]
"""(rows, tokens)."""

TOKENS_PER_CALL: Final = 1024
"""Tokens of one call at most (or one text): memory grows with it, and throughput no more."""
TOKENS_PER_TEXT: Final = 4
"""A row takes at most one text for each so many tokens."""

_SINGLE_ROWS: Final = (16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512)
_ROWS: Final = (128, 192, 256, 512)
_BATCHES: Final = (1, 2, 4, 6, 8)
_LONG_STEP: Final = 512
# What a call costs besides its tokens, and the row length at which attention costs as much as all else, in tokens.
_CALL_COST: Final = 64
_ATTENTION_LENGTH: Final = 700


class Place(NamedTuple):
    """Where a text stands: its index among those planned, its row, its number in the row, and its first token."""

    text: int
    row: int
    segment: int
    start: int


@dataclass(frozen=True, slots=True)
class Call:
    """One engine call."""

    shape: Shape
    places: tuple[Place, ...]


@dataclass(slots=True)
class _Row:
    length: int
    used: int = 0
    texts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, text: int, tokens: int) -> None:
        self.texts.append((text, self.used))
        self.used += tokens

    @property
    def free(self) -> int:
        full = len(self.texts) >= self.length // TOKENS_PER_TEXT
        return 0 if full else self.length - self.used


class Grid:
    """The shapes for texts of up to `longest` tokens, and how to fill them."""

    def __init__(self, longest: int) -> None:
        long = range(_ROWS[-1] + _LONG_STEP, longest + _LONG_STEP, _LONG_STEP)
        self._rows = _up_to(longest, (*_ROWS, *long))
        self._singles = _up_to(self._rows[-1], (*_SINGLE_ROWS, *long))

    @property
    def shapes(self) -> frozenset[Shape]:
        """All of them."""
        singles = {(1, length) for length in self._singles}
        return frozenset(singles | {(batch, length) for length in self._rows for batch in _batches(length)})

    def plan(self, lengths: Sequence[int]) -> list[Call]:
        """The calls for texts of these lengths. Raises IndexError for a text longer than the grid."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        # Texts just longer than half a row leave much of it empty, and fit a longer row better.
        plans = [list(self._calls(self._pack(order, lengths, least))) for least in self._rows[:3]]
        return min(plans, key=lambda calls: sum(_cost(*call.shape) for call in calls))

    def group(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of the texts of each call of the `plan`, ascending in length."""
        return [sorted((place.text for place in call.places), key=lengths.__getitem__) for call in self.plan(lengths)]

    def _pack(self, order: Sequence[int], lengths: Sequence[int], least: int) -> list[_Row]:
        """Best fit, longest first; a text that fits nowhere opens the shortest row for it, of `least` or more."""
        rows: list[_Row] = []
        # (tokens free, row) of each row, ascending.
        spaces: list[tuple[int, int]] = []
        for text in order:
            tokens = lengths[text]
            found = bisect_left(spaces, (tokens, 0))
            if found < len(spaces):
                _, number = spaces.pop(found)
            else:
                number = len(rows)
                rows.append(_Row(self._rows[bisect_left(self._rows, max(tokens, least))]))
            rows[number].add(text, tokens)
            if free := rows[number].free:
                insort(spaces, (free, number))
        return rows

    def _calls(self, rows: list[_Row]) -> Iterator[Call]:
        rows.sort(key=lambda row: row.length)
        for length, same in groupby(rows, key=lambda row: row.length):
            waiting = list(same)
            while waiting:
                batch = _first_batch(len(waiting), length)
                taken, waiting = waiting[:batch], waiting[batch:]
                width = length
                if batch == 1:
                    needed = max(taken[0].used, len(taken[0].texts) * TOKENS_PER_TEXT)
                    width = self._singles[bisect_left(self._singles, needed)]
                places = (
                    Place(text, number, segment, start)
                    for number, row in enumerate(taken)
                    for segment, (text, start) in enumerate(row.texts)
                )
                yield Call((batch, width), tuple(places))


def _up_to(longest: int, lengths: Sequence[int]) -> list[int]:
    """Those of the lengths that texts of up to `longest` tokens need."""
    return [length for index, length in enumerate(lengths) if index == 0 or lengths[index - 1] < longest]


def _cost(batch: int, length: int) -> float:
    return _CALL_COST + batch * length * (1 + length / _ATTENTION_LENGTH)


def _batches(length: int) -> list[int]:
    return [batch for batch in _BATCHES if batch == 1 or batch * length <= TOKENS_PER_CALL]


@cache
def _cheapest(rows: int, length: int) -> tuple[float, int]:
    """The least cost of fewer than two full calls' rows, and the first batch that it takes."""
    if rows <= 0:
        return 0.0, 0
    return min((_cost(batch, length) + _cheapest(rows - batch, length)[0], batch) for batch in _batches(length))


def _first_batch(rows: int, length: int) -> int:
    most = _batches(length)[-1]
    return most if rows >= 2 * most else _cheapest(rows, length)[1]
