"""The page: complete, with units, boundaries and intervals, and no overhead where none may stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.blocks import Block, Heading, Items, Paragraph, Picture, Table, to_html, to_markdown
from ephemeralml.bench.suite.compare import Result, added, median_of, overhead
from ephemeralml.bench.suite.cost import Price, read_prices
from ephemeralml.bench.suite.elsewhere import PUBLISHED_FILE, nitro
from ephemeralml.bench.suite.report import PICTURES, choose, page, write_report
from ephemeralml.errors import ConfigurationError

from .conftest import ROOT


@pytest.fixture
def pair(results: Path) -> tuple[Result, Result]:
    return Result.load(results / "baseline_results.json"), Result.load(results / "enclave_results.json")


def test_the_page_has_every_table(results: Path) -> None:
    text = (results / "benchmark_report.md").read_text()
    for heading in (
        *("1. Inference latency", "2. Model load by stage", "3. Cold start", "4. Attestation and key release"),
        *("5. Transport", "6. Memory", "A sealed request by part", "Many clients", "Sessions and receipts", "Quality"),
        *("Cost", "On Nitro", "What others published", "How it is measured"),
    ):
        assert f"## {heading}\n" in text
    assert "**not confidential**" in text.replace("\n", " ")
    assert "A quick run: too few samples to quote." in text
    assert "| inside the enclave | Encoder.encode in the two processes |" in text
    assert "nan" not in text
    html = (results / "benchmark_report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|https://)', html)
    assert "What others published" in html


def test_without_bare_metal_there_is_no_overhead(results: Path, tmp_path: Path) -> None:
    write_report([results / "enclave_results.json"], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "Overheads are not printed: bare metal was not measured in this run." in text
    assert "| overhead |" not in text.split("## What others published")[0]


def test_results_that_cannot_stand_together_are_refused(pair: tuple[Result, Result]) -> None:
    bare, enclave = pair
    for wrong in ([bare], [bare, bare, enclave], []):
        with pytest.raises(BenchError, match="at least one enclave"):
            choose(wrong)
    with pytest.raises(BenchError, match="differ in threads"):
        choose([Result({**bare.content, "threads": 8}, bare.samples), enclave])


def test_a_measured_result_takes_the_projections_place(pair: tuple[Result, Result]) -> None:
    _, enclave = pair
    projected = to_markdown(nitro(enclave, []))
    assert "**Projected, not measured.**" in projected
    assert "| round trip, 1 KB | ms |" in projected
    assert "|  | nobody published this size |" in projected
    there = Result({**enclave.content, "platform": "nitro", "hardware": "a c6i.xlarge"}, enclave.samples)
    measured = to_markdown(nitro(enclave, [there]))
    assert "Projected" not in measured
    assert "| measured on Nitro, ms | a c6i.xlarge |" in measured


def test_a_run_in_a_virtual_machine_has_its_own_section(pair: tuple[Result, Result]) -> None:
    bare, enclave = pair
    emulated = Result(
        {
            **enclave.content,
            "platform": "vm",
            "kind": "emulated",
            "absent": {"bare metal": "another machine"},
            "memory": {**enclave["memory"], "enclave_allocation_mb": 805.3},
        },
        enclave.samples,
    )
    chosen = choose([bare, emulated, enclave])
    assert chosen == (bare, enclave, [emulated])
    text = to_markdown(page(*chosen, prices=None, pictures={}))
    assert "## The image in a virtual machine" in text
    assert "**Emulated** on platform **vm**" in text
    assert "not measured: bare metal: another machine" in text
    assert "virtual machine" not in to_markdown(page(bare, enclave, [], prices=None, pictures={}))


def test_every_published_figure_names_its_source() -> None:
    table: dict[str, Any] = json.loads(PUBLISHED_FILE.read_bytes())
    for row in table["rows"]:
        assert set(row) == {"name", "source", "url", "date", "note", *table["columns"]}
        if any(row[column] for column in table["columns"]):
            assert row["url"].startswith("https://")


def test_committed_results_are_what_the_page_shows() -> None:
    docs = ROOT / "docs"
    paths = sorted((docs / "results").rglob("*_results.json"))
    bare, enclave, more = choose([Result.load(path) for path in paths])
    pictures = {name: f"benchmarks-{name}.png" for name in PICTURES}
    text = to_markdown(page(bare, enclave, more, prices=None, pictures=pictures))
    assert text == (docs / "benchmarks.md").read_text()
    assert all((docs / name).is_file() for name in pictures.values())


def test_cost_is_arithmetic_on_the_users_table(tmp_path: Path) -> None:
    assert Price("x", 0.36, "y").per_million(100) == pytest.approx(1.0)
    path = tmp_path / "prices.json"
    path.write_text('{"currency": "EUR", "instances": [{"name": "a", "per_hour": 1, "source": "me"}]}')
    assert read_prices(path) == ("EUR", [Price("a", 1.0, "me")])
    assert len(read_prices(None)[1]) >= 2
    for wrong in ("", "[]", '{"currency": "EUR", "instances": []}', path.read_text().replace("1,", "0,")):
        path.write_text(wrong)
        with pytest.raises(ConfigurationError, match="is no price table"):
            read_prices(path)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.lists(st.floats(0.1, 100), min_size=1, max_size=40))
def test_intervals_hold_their_value_and_are_the_same_each_time(a: list[float], b: list[float]) -> None:
    for interval in (median_of(a), added(a, b), overhead(a, b)):
        assert interval.low <= interval.high
    assert median_of(a).value == pytest.approx(np.median(a))
    assert min(a) <= median_of(a).low <= median_of(a).high <= max(a)
    assert overhead(a, b) == overhead(a, b)


def test_a_difference_that_is_known_is_found() -> None:
    rng = np.random.default_rng(1)
    bare, enclave = rng.normal(10, 0.1, 400), rng.normal(10.5, 0.1, 400)
    found = overhead(enclave.tolist(), bare.tolist())
    assert found.low < 0.05 < found.high
    assert found.high - found.low < 0.01


def test_blocks_in_both_forms() -> None:
    blocks: list[Block] = [
        Heading(2, "A & B"),
        Paragraph("**bold** `code` [a link](https://example.org/?a=1&b=2) <b>"),
        Items(["one", "two"]),
        Table(("a", "b"), [("1|2", "<3>")]),
        Picture("p.png", 'a "picture"'),
    ]
    markdown, html = to_markdown(blocks), to_html("T", blocks, {"p.png": b"\x89PNG"})
    assert "| 1/2 | <3> |" in markdown
    assert '![a "picture"](p.png)' in markdown
    assert '<a href="https://example.org/?a=1&amp;b=2">a link</a>' in html
    assert "<strong>bold</strong> <code>code</code>" in html
    assert "&lt;b&gt;" in html
    assert "<td>&lt;3&gt;</td>" in html
    assert 'src="data:image/png;base64,iVBORw=="' in html
