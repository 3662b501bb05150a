"""The pages people read, taken apart: their code blocks, and their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"(?:^ *<!-- not run here: (.+?) -->\n\s*)?^( *)```(\S*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block; `why_not` is what the comment before it says, where it cannot run here."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    content = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(content):
        why_not, indent, language, text = found.groups()
        yield Block(
            page=page,
            line=content.count("\n", 0, found.start(3)) + 1,
            language=language,
            text=re.sub(f"^{indent}", "", text, flags=re.MULTILINE),
            why_not=why_not,
        )


def table(page: str, *head: str) -> list[tuple[str, ...]]:
    """The rows of the one table of `page` whose columns are named `head`."""
    lines = [line.strip() for line in (ROOT / page).read_text(encoding="utf-8").splitlines()]
    heads = [number for number, line in enumerate(lines) if line == f"| {' | '.join(head)} |"]
    assert len(heads) == 1, f"{page} has {len(heads)} tables with the columns {head}"
    rows = takewhile(lambda line: line.startswith("|"), lines[heads[0] + 2 :])
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def code(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return _CODE.findall(cell)


def script(name: str) -> Any:
    """A file of scripts/ as a module."""
    spec = spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
