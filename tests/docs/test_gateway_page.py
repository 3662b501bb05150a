"""The figures on the gateway's page are those of the committed results, and what is met is met."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pages import ROOT

PAGE = (ROOT / "docs" / "gateway.md").read_text()
# The row's beginning, the result, its figure, and whether less is better.
ROWS = [
    ("one text", "gateway", "added_ms", True),
    ("16 callers", "gateway", "share_of_throughput", False),
    ("3,000 lines", "corpus", "share_of_ceiling", False),
]


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_bytes())
    return found


@pytest.mark.parametrize(("row", "name", "figure", "less"), ROWS)
def test_a_figure_is_the_results(row: str, name: str, figure: str, less: bool) -> None:
    cells = re.search(rf"^\| {row}: .*$", PAGE, re.MULTILINE)
    assert cells is not None
    median, low, high, target = (float(number) for number in re.findall(r"(?<![\w,.])\d+\.\d+", cells[0]))
    measured = result(name)["figures"][figure]
    for shown, kind in ((median, "median"), (low, "low"), (high, "high")):
        assert shown == pytest.approx(measured[kind], rel=0.005)
    met = measured["median"] <= target if less else measured["median"] >= target
    assert cells[0].endswith("| met |" if met else "| missed |")


@pytest.mark.parametrize("name", ["gateway", "corpus"])
def test_a_result_is_of_a_commit_that_the_page_names(name: str) -> None:
    source = result(name)["source"]
    assert not source["dirty"]
    assert source["commit"][:7] in PAGE
