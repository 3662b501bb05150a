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
PAGES: Final = [
    *(ROOT / "README.md", ROOT / "SECURITY.md"),
    *sorted(path for folder in ("deploy", "docs") for path in (ROOT / folder).rglob("*.md")),
]

_BLOCK = re.compile(r"(?:^ *<!-- ([^\n]+) -->\n\s*)?^( *)```(\S*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = "not run here: "
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block, and what a comment right before it says of it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def why_not(self) -> str:
        """Why it cannot run here, if the page says that."""
        return self.comment.removeprefix(_NOT_RUN) if self.comment.startswith(_NOT_RUN) else ""

    @property
    def anew(self) -> bool:
        """Whether the reader begins here with nothing but a model, on a machine where nothing runs."""
        return self.comment == "on a machine of its own"

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    content = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(content):
        comment, indent, language, text = found.groups()
        yield Block(
            page=page,
            line=content.count("\n", 0, found.start(3)) + 1,
            language=language,
            text=re.sub(f"^{indent}", "", text, flags=re.MULTILINE),
            comment=comment or "",
        )


def all_tables(page: Path) -> Iterator[tuple[list[str], list[tuple[str, ...]]]]:
    """Every table of a page: the names of its columns, and its rows."""
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines[1:]):
        if line.startswith("|") and not line.strip("|-: "):
            rows = takewhile(lambda line: line.startswith("|"), lines[number + 2 :])
            yield list(_cells(lines[number])), [_cells(row) for row in rows]


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|"))


def tables(page: str, *head: str) -> list[list[tuple[str, ...]]]:
    """The rows of each table of `page` whose columns are named `head`; one there must be."""
    found = [rows for names, rows in all_tables(ROOT / page) if names == list(head)]
    assert found, f"{page} has no table with the columns {head}"
    return found


def table(page: str, *head: str) -> list[tuple[str, ...]]:
    """The rows of the only such table."""
    (rows,) = tables(page, *head)
    return rows


def names(rows: list[tuple[str, ...]]) -> list[str]:
    """What the first column has in backticks."""
    return [name for row in rows for name in code(row[0])]


def numbers(cell: str) -> list[float]:
    """The numbers of a cell: ``1,024`` is one."""
    return [float(number.replace(",", "")) for number in re.findall(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?", cell)]


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
