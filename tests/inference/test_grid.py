from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.inference.grid import TOKENS_PER_CALL, TOKENS_PER_TEXT, Call, Grid


def check(grid: Grid, lengths: list[int]) -> list[Call]:
    """The plan for these lengths, in which each text has a place of its own in a shape of the grid."""
    calls = grid.plan(lengths)
    assert sorted(place.text for call in calls for place in call.places) == list(range(len(lengths)))
    for call in calls:
        rows, tokens = call.shape
        assert call.shape in grid.shapes
        assert rows == 1 or rows * tokens <= TOKENS_PER_CALL
        taken = np.zeros(call.shape, int)
        for text, row, segment, start in call.places:
            assert start + lengths[text] <= tokens
            assert segment < tokens // TOKENS_PER_TEXT
            taken[row, start : start + lengths[text]] += 1
        assert taken.max() == 1
        assert len({(place.row, place.segment) for place in call.places}) == len(call.places)
    groups = grid.group(lengths)
    assert [set(group) for group in groups] == [{place.text for place in call.places} for call in calls]
    assert all([lengths[text] for text in group] == sorted(lengths[text] for text in group) for group in groups)
    return calls


@given(st.lists(st.integers(1, 256), max_size=300))
def test_every_text_has_its_place(lengths: list[int]) -> None:
    check(Grid(256), lengths)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=50))))
def test_for_models_of_any_limit(drawn: tuple[int, list[int]]) -> None:
    check(Grid(drawn[0]), [drawn[0], *drawn[1]])


@given(st.lists(st.integers(1, 4), max_size=500))
def test_for_the_shortest_texts(lengths: list[int]) -> None:
    check(Grid(256), lengths)


def test_texts_longer_than_the_grid_are_refused() -> None:
    with pytest.raises(IndexError):
        Grid(48).plan([3, 129])
    with pytest.raises(IndexError):
        Grid(2000).plan([2049])


def test_the_grid_is_small() -> None:
    assert len(Grid(256).shapes) <= 18
    assert len(Grid(512).shapes) <= 22


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [(10, 120, 128), (5, 40, 32), (5, 40, 128), (8, 256, 32), (9, 9, 16), (65, 85, 100), (129, 160, 50), (2, 2, 900)],
)
def test_little_is_padding(low: int, high: int, texts: int) -> None:
    rng = np.random.default_rng(0)
    lengths = [int(length) for length in rng.integers(low, high + 1, texts)]
    calls = check(Grid(256), lengths)
    padded = sum(call.shape[0] * call.shape[1] for call in calls)
    # A text of two tokens takes the place of four; two of three quarters of the longest row share none.
    allowed = {2: 2.4, 129: 1.4}.get(low, 1.35)
    assert padded <= allowed * sum(lengths)


def test_one_text_takes_the_shortest_row() -> None:
    for tokens, row in ((1, 16), (9, 16), (17, 32), (100, 128), (129, 160), (256, 256)):
        [call] = check(Grid(256), [tokens])
        assert call.shape == (1, row)
    assert Grid(256).plan([]) == []
