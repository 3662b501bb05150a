"""Texts have the counts asked for, and are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeralml.bench.ours import Ours
from ephemeralml.bench.texts import MIXED_TEXTS, digest, exact_text, exact_texts, mixed_texts, paragraphs
from ephemeralml.errors import ModelError


@pytest.fixture(scope="module")
def ours(tiny_model: Path) -> Ours:
    return Ours.load(tiny_model)


@pytest.mark.parametrize("tokens", [3, 8, 9, 31, 32, 48])
def test_exact_counts(ours: Ours, tokens: int) -> None:
    text = exact_text(tokens, ours.count)
    assert ours.count(text) == tokens
    assert text == exact_text(tokens, ours.count)


def test_many_of_one_length_differ(ours: Ours) -> None:
    made = exact_texts(20, 12, lambda text: len(text.split()) + 2)
    assert {len(text.split()) for text in made} == {10}
    assert len(set(made)) == 20


def test_a_length_no_text_can_have(ours: Ours) -> None:
    with pytest.raises(ModelError, match="no text of 1 tokens"):
        exact_text(1, ours.count)


def test_mixed_texts_are_of_their_lengths(ours: Ours) -> None:
    made = mixed_texts(ours.count)
    assert len(made) == MIXED_TEXTS == len(set(made))
    lengths = [ours.count(text) for text in made]
    assert min(lengths) >= 10
    assert max(lengths) <= 120
    assert len(set(lengths)) > 10
    assert digest(made) == digest(mixed_texts(ours.count))


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(ModelError, match="only 0 texts"):
        mixed_texts(lambda text: 1)


def test_paragraphs_are_many_and_folded() -> None:
    assert len(paragraphs()) > 1000
    assert not any("\n" in text or "  " in text for text in paragraphs())
