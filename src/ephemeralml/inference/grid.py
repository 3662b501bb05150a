"""The few shapes that an engine sees which compiles for every new one, and never gives that memory back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

Shape: TypeAlias = tuple[int, int]
"""(texts, tokens)."""

# Short lengths stand close, since padding is a larger part of them. Finer steps of the batch size save next to nothing:
# texts that do not fill a batch are padded to the next length and join those.
LENGTHS: Final = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
BATCHES: Final = (1, 4, 16, 64)
TOKENS_PER_CALL: Final = 1024
"""Padded tokens of one call at most (or one text): memory grows with it, and throughput no more."""

_LONG_STEP: Final = 512
# What a call costs besides its tokens, and the length at which attention costs as much as all else, both in tokens.
_CALL_COST: Final = 40
_ATTENTION_LENGTH: Final = 500


class Grid:
    """The shapes for texts of up to `longest` tokens: `LENGTHS` and then steps of 512, each by `BATCHES`."""

    def __init__(self, longest: int) -> None:
        steps = [*LENGTHS, *range(LENGTHS[-1] + _LONG_STEP, longest + _LONG_STEP, _LONG_STEP)]
        lengths = sorted({min(length, longest) for length in steps})
        self._batches = {
            length: [batch for batch in BATCHES if batch == 1 or batch * length <= TOKENS_PER_CALL]
            for length in lengths
        }
        self._lengths = lengths

    @property
    def shapes(self) -> list[Shape]:
        """All of them."""
        return [(batch, length) for length, batches in self._batches.items() for batch in batches]

    def group(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of the texts of each call, ascending in length, so that all calls together cost least.

        Raises IndexError for a text longer than the grid.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        costs, starts = [0.0], [0]
        for end, index in enumerate(order, 1):
            # The longest text decides the length of the call that it ends.
            length = self._length(lengths[index])
            per_text = length * (1 + length / _ATTENTION_LENGTH)
            cost, start = min(
                (costs[start] + _CALL_COST + batch * per_text, start)
                for batch in self._batches[length]
                for start in [max(0, end - batch)]
            )
            costs.append(cost)
            starts.append(start)
        groups = []
        end = len(order)
        while end:
            groups.append(order[starts[end] : end])
            end = starts[end]
        return groups[::-1]

    def calls(self, texts: int, tokens: int) -> Iterator[tuple[int, int, Shape]]:
        """First row, row after the last, and shape of each call for a padded batch. Raises IndexError as `group`."""
        length = self._length(tokens)
        batches = self._batches[length]
        for start in range(0, texts, batches[-1]):
            stop = min(texts, start + batches[-1])
            yield start, stop, (batches[bisect_left(batches, stop - start)], length)

    def _length(self, tokens: int) -> int:
        length: int = self._lengths[bisect_left(self._lengths, tokens)]
        return length
