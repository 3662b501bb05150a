"""Texts to measure with, the same on every run: made from docstrings that ship with Python, of exact token counts."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from ephemeralml.errors import ModelError

Count: TypeAlias = Callable[[str], int]
"""Tokens of a text, special ones included."""

MIXED_TEXTS: Final = 128
MIXED_TOKENS: Final = (10, 120)

# Long documented parts of the standard library that every supported Python has.
_MODULES: Final = (
    *("argparse", "ast", "calendar", "codecs", "collections/__init__", "configparser", "contextlib", "copy", "csv"),
    *("dataclasses", "difflib", "doctest", "email/message", "enum", "fractions", "functools", "gettext", "heapq"),
    *("http/client", "imaplib", "inspect", "ipaddress", "json/__init__", "logging/__init__", "mailbox", "optparse"),
    *("os", "pathlib", "pdb", "pickle", "pickletools", "random", "shutil", "smtplib", "socket", "statistics"),
    *("subprocess", "tarfile", "tempfile", "threading", "turtle", "typing", "unittest/case", "urllib/request"),
    *("uuid", "zipfile", "zipfile/__init__"),
)
_WORD: Final = re.compile(r"[A-Za-z]{2,}")


@cache
def paragraphs() -> tuple[str, ...]:
    """Paragraphs of docstrings, white space folded, in the order of the modules; no two the same."""
    found: dict[str, None] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for name in _MODULES:
        path = library / f"{name}.py"
        if path.is_file():
            for docstring in _docstrings(ast.parse(path.read_bytes())):
                found |= {" ".join(part.split()): None for part in docstring.split("\n\n") if part.strip()}
    return tuple(found)


def exact_text(tokens: int, count: Count, *, seed: int = 0) -> str:
    """A text of exactly `tokens` tokens; another `seed` gives other words. Raises `ModelError` where there is none."""
    chosen: list[str] = []
    have = count("")
    for word in _words(seed):
        if have == tokens:
            return " ".join(chosen)
        # One word may be several tokens, and then too many.
        if (longer := count(" ".join([*chosen, word]))) <= tokens:
            chosen.append(word)
            have = longer
    raise ModelError(f"no text of {tokens} tokens can be made for this tokenizer", code="bench.texts")


def exact_texts(number: int, tokens: int, count: Count) -> list[str]:
    """So many different texts of exactly `tokens` tokens each."""
    return [exact_text(tokens, count, seed=seed) for seed in range(number)]


def mixed_texts(count: Count, *, number: int = MIXED_TEXTS, seed: int = 1) -> list[str]:
    """Paragraphs of 10 to 120 tokens as they come in prose, shuffled. Raises `ModelError` when there are too few."""
    low, high = MIXED_TOKENS
    pool = list(paragraphs())
    random.Random(seed).shuffle(pool)  # noqa: S311 - to be the same each time
    # What is far too long need not be tokenized to know it.
    fitting = [text for text in pool if len(text) < 12 * high and low <= count(text) <= high][:number]
    if len(fitting) < number:
        raise ModelError(f"Python's docstrings have only {len(fitting)} texts of that length", code="bench.texts")
    return fitting


def digest(texts: Sequence[str]) -> str:
    """SHA-256 that tells whether two runs had the same texts."""
    return sha256("\0".join(texts).encode()).hexdigest()


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text


@cache
def _vocabulary() -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.lower() for text in paragraphs() for word in _WORD.findall(text)))


def _words(seed: int) -> Iterator[str]:
    """Words for one text, then single letters, one token each in any vocabulary, to fill what is left."""
    chooser = random.Random(seed)  # noqa: S311 - to be the same each time
    words = _vocabulary()
    for _ in range(2000):
        yield chooser.choice(words)
    yield from "abcdefghij"
