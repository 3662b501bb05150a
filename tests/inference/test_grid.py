from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.inference.grid import BATCHES, TOKENS_PER_CALL, Grid

LENGTHS = st.lists(st.integers(1, 256), max_size=300)


@given(LENGTHS)
def test_every_text_is_in_one_call_that_fits_the_grid(lengths: list[int]) -> None:
    grid = Grid(256)
    shapes = set(grid.shapes)
    groups = grid.group(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    ordered = [lengths[index] for group in groups for index in group]
    assert ordered == sorted(lengths)
    for group in groups:
        [(start, stop, (batch, length))] = grid.calls(len(group), max(lengths[index] for index in group))
        assert (start, stop) == (0, len(group))
        assert (batch, length) in shapes
        assert batch >= len(group)
        assert length >= max(lengths[index] for index in group)
        assert batch == 1 or batch * length <= TOKENS_PER_CALL


def test_a_batch_of_any_size_is_cut_into_shapes_of_the_grid() -> None:
    grid = Grid(100)
    for texts in range(1, 200):
        for tokens in (1, 8, 9, 33, 100):
            calls = list(grid.calls(texts, tokens))
            assert [call[0] for call in calls] == [0, *(call[1] for call in calls[:-1])]
            assert calls[-1][1] == texts
            assert all(
                shape in grid.shapes and stop - start <= shape[0] and tokens <= shape[1] for start, stop, shape in calls
            )


def test_the_grid_ends_at_the_longest_text() -> None:
    assert max(length for _, length in Grid(48).shapes) == 48
    assert max(length for _, length in Grid(5).shapes) == 5
    assert max(length for _, length in Grid(2000).shapes) == 2000
    for grid in (Grid(48), Grid(2000)):
        longest = max(length for _, length in grid.shapes)
        with pytest.raises(IndexError):
            list(grid.calls(1, longest + 1))
        with pytest.raises(IndexError):
            grid.group([3, longest + 1])


def test_the_grid_is_small() -> None:
    assert len(Grid(256).shapes) <= 48
    assert len(Grid(512).shapes) <= 56


def test_little_is_padding() -> None:
    grid, rng = Grid(256), np.random.default_rng(0)
    for low, high, texts in ((10, 120, 128), (5, 40, 128), (8, 256, 32), (9, 9, 16)):
        lengths = [int(length) for length in rng.integers(low, high + 1, texts)]
        padded = 0
        for group in grid.group(lengths):
            padded += sum(batch * length for _, _, (batch, length) in grid.calls(len(group), lengths[group[-1]]))
        assert padded <= 1.4 * sum(lengths)
    assert grid.group([9] * BATCHES[-1]) == [list(range(BATCHES[-1]))]
    assert grid.group([]) == []
