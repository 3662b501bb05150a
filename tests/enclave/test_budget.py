from __future__ import annotations

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
        other.take(5)
    other.take(4)
    one.give(6)
    other.take(4)


def test_a_refused_take_changes_nothing() -> None:
    parent = Budget(10)
    child = Budget(100, parent)
    child.take(9)
    for _ in range(3):
        with pytest.raises(BusyError):
            child.take(2)
    child.take(1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50))))
def test_never_more_than_either_cap(steps: list[tuple[bool, int]]) -> None:
    parent = Budget(100)
    children, held = (Budget(60, parent), Budget(60, parent)), [0, 0]
    for which, size in steps:
        try:
            children[which].take(size)
        except BusyError:
            assert held[which] + size > 60 or sum(held) + size > 100
        else:
            held[which] += size
        assert max(held) <= 60
        assert sum(held) <= 100
