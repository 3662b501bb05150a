"""Other people's text, made harmless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.texts import printable


@pytest.mark.parametrize("evil", ["\x1b[2J", "\nhost: ready", "\x9b2J", "\u202e", "\r", "\u2028", "\x08"])
def test_nothing_that_a_terminal_obeys_gets_through(evil: str) -> None:
    assert printable(f"a{evil}b").startswith("a?")


@given(st.text())
def test_what_is_left_is_printable_and_as_long(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    assert printable(text, 3) == printable(text)[:3]
