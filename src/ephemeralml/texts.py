"""What counts as a list of texts, for client, tokenizer and batcher alike; and other people's text made harmless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from ephemeralml.errors import RequestError


def check_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts, none of them anything but Unicode.

    Raises `RequestError`: ``request.type`` for a single string or what is no ordered iterable of `str`,
    ``request.unicode`` for a lone surrogate.
    """
    # A set or a mapping has no order of its own for the vectors to keep.
    if isinstance(texts, str | bytes | Set | Mapping) or not isinstance(texts, Iterable):
        raise RequestError("texts must be a list of strings", code="request.type")
    checked = tuple(texts)
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise RequestError(f"text {index} is a {type(text).__name__}, not a string", code="request.type")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError(f"text {index} has a lone surrogate: not Unicode text", code="request.unicode") from None
    return checked


def printable(text: str, limit: int | None = None) -> str:
    """Somebody else's text for a terminal, a log or a message: `limit` characters of it, and nothing that a terminal
    obeys or that begins a line: control characters, line breaks and overrides of direction become ``?``.
    """
    return "".join(character if character.isprintable() else "?" for character in text[:limit])
