"""What the pages quote is what the program says, and the codes beside it are the program's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOLE = "…"
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
PACKING = (ROOT / "docs" / "pack-a-model.md").read_text().partition("## Errors one meets")[2]

QUOTED = [
    *re.findall(r"\*\*`([^`]*[a-z] [^`]*)`\*\*", TROUBLE),
    *re.findall(r"^\| `([^`]+)` \|", PACKING, re.MULTILINE),
]
LINKED = sorted(set(re.findall(r"\[`([\w.]+)`\]\(errors\.md#", TROUBLE + PACKING)))


def literal(node: ast.AST) -> Iterator[str]:
    """The strings written in `node`, a value put into one as `HOLE`."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)  # type: ignore[misc]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


@cache
def said() -> frozenset[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "src" / "ephemeralml").rglob("*.py")]
    return frozenset(text for tree in trees for node in ast.walk(tree) for text in literal(node))


def pieces(quoted: str) -> list[str]:
    """The parts of a quoted message that hold no value; what was unsupported in the example is one."""
    parts = re.split(r"[…:;]|'[^']*'|\([^)]*\)|/\S+|\d+|config\.json|architecture|default_prompt_name", quoted)
    return [part.strip(" ,") for part in parts if len(part.strip(" ,")) > 3]


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_one_of_the_programs(quoted: str) -> None:
    found = pieces(quoted)
    assert found
    for piece in found:
        assert any(piece in text for text in said()), piece


@pytest.mark.parametrize("code", LINKED)
def test_a_linked_code_is_one_of_the_programs(code: str) -> None:
    head, _, tail = code.rpartition(".")
    # Codes are written whole, or as a family and a reason.
    assert code in said() or (tail in said() and any(text.startswith(f"{head}.") for text in said()))


def test_the_pages_name_more_than_twenty_of_each() -> None:
    assert len(QUOTED) > 40
    assert len(LINKED) > 40
