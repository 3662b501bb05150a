"""`docs/errors.md` names every code that the source can raise, and no other; the command line links to its places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from error_codes import Codes

from ephemeralml.errors import docs_link

_ROOT = Path(__file__).parents[1]
_PAGE = _ROOT / "docs" / "errors.md"
_ROW = re.compile(r"^\| `([^`]+)` \| (.+) \| (.+) \|$")


@pytest.fixture(scope="module")
def codes() -> Codes:
    return Codes(_ROOT / "src" / "ephemeralml")


def _rows() -> list[tuple[str, str]]:
    """Each row's heading, as the anchor that it gets on GitHub and in MkDocs alike, and its code."""
    rows, anchor = [], ""
    for line in _PAGE.read_text("utf-8").splitlines():
        if line.startswith("#"):
            anchor = line.lstrip("# ").lower().replace(" ", "-")
        elif row := _ROW.match(line):
            rows.append((anchor, row[1]))
    return rows


def test_each_code_is_read_to_its_end(codes: Codes) -> None:
    assert codes.unknown == set()
    assert len(codes.found) > 400


def test_the_page_has_every_code_once_and_no_other(codes: Codes) -> None:
    named = [code for _, code in _rows() if not code.isdecimal()]
    assert sorted(set(named)) == sorted(named)
    assert set(named) - codes.found == set()
    assert codes.found - set(named) == set()


def test_a_link_leads_to_the_table_that_has_the_code() -> None:
    wrong = [code for anchor, code in _rows() if docs_link(code) != f"docs/errors.md#{anchor}"]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise E("m", code="a.b")', {"a.b"}),
        ('_C = "a.c"\nraise E("m", code=_C)', {"a.c"}),
        ('def f(x):\n    raise E("m", code=f"p.{x}")\nf("one")\nf(x="two")', {"p.one", "p.two"}),
        ('def f(s, x):\n    raise E("m", code=f"{s}.{x}")\nf("a", "1")\nf("b", "2")', {"a.1", "b.2"}),
        ('_D = {1: "x", 2: "y"}\nraise E("m", code=f"d.{_D.get(3, \'z\')}")', {"d.x", "d.y", "d.z"}),
        ('def f(e):\n    raise E("m", code=f"peer.{e.code}")', {"peer.…"}),
    ],
)
def test_how_codes_are_read(tmp_path: Path, source: str, found: set[str]) -> None:
    (tmp_path / "module.py").write_text(source)
    read = Codes(tmp_path)
    assert (read.found, read.unknown) == (found, set())


def test_a_code_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text('raise E("m", code=other())')
    assert Codes(tmp_path).unknown == {"module.py: other()"}
