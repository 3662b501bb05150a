"""The error codes that pages name are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from error_codes import Codes
from pages import PAGES, ROOT, all_tables, code, tables

SOURCE = ROOT / "src" / "ephemeralml"


@pytest.fixture(scope="module")
def codes() -> set[str]:
    found: set[str] = Codes(SOURCE).found
    return found


def spelled(cell: str) -> list[str]:
    """The codes of a cell: after ``image.header`` stands ``.version`` for ``image.version``."""
    whole: list[str] = []
    for name in code(cell):
        if name.startswith("."):
            whole.append(whole[-1].partition(".")[0] + name)
        elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*|[A-Z][A-Z0-9_]+", name):
            whole.append(name)
    return whole


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_code_that_a_table_names_exists(page: Path, codes: set[str]) -> None:
    named = [
        name
        for head, rows in all_tables(page)
        for column, title in enumerate(head)
        if re.match(r"codes?\b", title)
        for row in rows
        for name in spelled(row[column])
    ]
    # What an enclave sends may come from the code as it is.
    assert [name for name in named if name not in codes] == []


def test_every_code_of_a_receipt_or_a_bundle_is_on_its_page() -> None:
    shown = {name for rows in tables("docs/receipts.md", "layer", "codes") for row in rows for name in spelled(row[1])}
    upper = {name for name in Codes(SOURCE).found if name.isupper()}
    assert shown == upper
