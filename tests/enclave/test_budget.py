from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.enclave.budget import Budget
from ephemeralml.errors import BusyError, RequestError


def test_what_is_given_back_can_be_taken_again() -> None:
    budget = Budget(10)
    budget.take(10)
    with pytest.raises(BusyError):
        budget.take(1)
    budget.give(4)
    budget.take(4)


def test_what_never_fits_is_not_called_busy() -> None:
    with pytest.raises(RequestError) as caught:
        Budget(10).take(11)
    assert caught.value.code == "request.size"


def test_a_child_counts_against_its_parent() -> None:
    parent = Budget(10)
    one, other = Budget(8, parent), Budget(8, parent)
    one.take(6)
    with pytest.raises(BusyError):
        other.take(3)
    other.take(2)
    one.give(6)
    other.take(6)


def test_a_refused_take_changes_nothing() -> None:
    parent = Budget(10)
    child = Budget(100, parent)
    child.take(7)
    for _ in range(3):
        with pytest.raises(BusyError):
            child.take(2)
    child.take(1)


@given(st.integers(513, 1024))
def test_whoever_fills_the_memory_learns_no_more_of_anothers_use_than_a_power_of_two(size: int) -> None:
    least = 0
    for step in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
        parent = Budget(4096)
        # By one bit for each time that the other one asks: whether it was refused.
        filled, other = [Budget(1, parent) for _ in range(4096 - least - step)], Budget(2048, parent)
        for one in filled:
            one.take(1)
        with suppress(BusyError):
            other.take(size)
            continue
        least += step
    assert least == 1023


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50))))
def test_never_more_than_either_cap(steps: list[tuple[bool, int]]) -> None:
    parent = Budget(100)
    children, held = (Budget(60, parent), Budget(60, parent)), [0, 0]
    for which, size in steps:
        try:
            children[which].take(size)
        except BusyError:
            after = [have + size * (index == which) for index, have in enumerate(held)]
            assert after[which] > 60 or sum(min(1 << (have - 1).bit_length(), 60) for have in after if have) > 100
        else:
            held[which] += size
        assert max(held) <= 60
        assert sum(held) <= 100
