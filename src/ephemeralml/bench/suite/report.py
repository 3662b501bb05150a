"""The page of a run: tables with boundaries and intervals, pictures, cost, others, what to expect on Nitro."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite import elsewhere, sections
from ephemeralml.bench.suite.blocks import Block, Heading, Picture, to_html, to_markdown
from ephemeralml.bench.suite.compare import Result, check_comparable
from ephemeralml.bench.suite.cost import read_prices
from ephemeralml.files import write_whole

TITLE: Final = "Benchmarks: bare metal and enclave"
PICTURES: Final = ("latency", "cold-start", "clients", "length")


def write_report(results: Sequence[Path], output: Path, *, prices: Path | None = None) -> list[Path]:
    """Write the page, its HTML and its pictures beside each other; returns their paths.

    Of the results one is the enclave's, of `local` if there are several; one bare metal's, where there is one; others
    are those of further platforms. Raises `BenchError` for results that cannot stand beside each other.
    """
    bare, enclave, more = choose([Result.load(path) for path in results])
    pictures, words = {}, dict[str, str]()
    try:
        from ephemeralml.bench.suite import plots  # noqa: PLC0415

        for name, (content, about) in plots.draw(bare, enclave).items():
            pictures[f"{output.stem}-{name}.png"], words[name] = content, about
    except ImportError:
        words = {}
    blocks = page(bare, enclave, more, prices=prices, pictures={name: f"{output.stem}-{name}.png" for name in words})
    output.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in pictures.items():
        write_whole(output.with_name(name), content)
        written.append(output.with_name(name))
    html = output.with_suffix(".html")
    write_whole(html, to_html(TITLE, blocks, pictures).encode())
    write_whole(output, to_markdown(blocks).encode())
    return [output, html, *written]


def choose(results: Sequence[Result]) -> tuple[Result | None, Result, list[Result]]:
    """Bare metal's, the enclave's that it is compared with, and the others. Raises `BenchError`."""
    bare = [result for result in results if result["environment"] == "bare_metal"]
    enclaves = [result for result in results if result["environment"] == "enclave"]
    if len(bare) > 1 or not enclaves:
        raise BenchError(
            "a report takes at least one enclave's result and at most one of bare metal", code="bench.results"
        )
    # sorted() keeps the order of the others.
    enclave, *more = sorted(enclaves, key=lambda result: bool(result["platform"] != "local"))
    if bare:
        check_comparable(bare[0], enclave)
    return (bare[0] if bare else None), enclave, more


def page(
    bare: Result | None, enclave: Result, more: Sequence[Result], *, prices: Path | None, pictures: dict[str, str]
) -> list[Block]:
    """All of it."""

    def picture(name: str, words: str) -> list[Block]:
        return [Picture(pictures[name], words)] if name in pictures else []

    currency, table = read_prices(prices)
    return [
        Heading(1, TITLE),
        *sections.headline(bare, enclave),
        *sections.targets(bare, enclave),
        Heading(2, "1. Inference latency"),
        *picture("latency", "Distribution of the latency of one text"),
        *sections.latency(bare, enclave),
        *picture("length", "Latency over the length of the text"),
        *sections.sweep(bare, enclave, "length", "tokens of the text"),
        *sections.sweep(bare, enclave, "batch", "texts in one call"),
        Heading(2, "2. Model load by stage"),
        *sections.load(bare, enclave),
        Heading(2, "3. Cold start"),
        *picture("cold-start", "Cold start by stage"),
        *sections.cold_start(bare, enclave),
        Heading(2, "4. Attestation and key release"),
        *sections.release(enclave),
        Heading(2, "5. Transport"),
        *sections.transport(bare, enclave),
        Heading(2, "6. Memory"),
        *sections.memory(bare, enclave),
        Heading(2, "A sealed request by part"),
        *sections.parts(enclave),
        Heading(2, "Many clients"),
        *picture("clients", "Answers a second over the number of clients"),
        *sections.clients(enclave),
        Heading(2, "Sessions and receipts"),
        *sections.crypto(enclave),
        Heading(2, "Quality"),
        *sections.quality(bare, enclave),
        Heading(2, "Cost"),
        *sections.cost(enclave, currency, table),
        *elsewhere.virtual(more),
        Heading(2, "On Nitro"),
        *elsewhere.nitro(enclave, more),
        Heading(2, "What others published"),
        *elsewhere.published(bare, enclave),
        Heading(2, "How it is measured"),
        *sections.method(bare, enclave),
    ]
