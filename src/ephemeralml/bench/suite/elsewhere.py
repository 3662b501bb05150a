"""The page's sections on other places than this run's: a virtual machine, Nitro, and what others published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ephemeralml.bench.report import number
from ephemeralml.bench.suite.blocks import Block, Heading, Items, Paragraph, Table
from ephemeralml.bench.suite.cells import cell, share, side_by_side
from ephemeralml.bench.suite.compare import Result, overhead
from ephemeralml.bench.suite.projection import SOURCE, project
from ephemeralml.bench.suite.sections import controls_said, headline, transport

PUBLISHED_FILE: Final = Path(__file__).with_name("published.json")


def virtual(more: Sequence[Result]) -> list[Block]:
    """The image's own run in a virtual machine: what the local platform leaves out, on a processor of software."""
    ran = [one for one in more if one["platform"] == "vm"]
    if not ran:
        return []
    one = ran[0]
    boot = sorted(name for name in one["series"] if name.startswith("boot/"))
    starts = ("cold_start/ready", "cold_start/attested", "cold_start/first_answer", *boot)
    difference = one["quality"]["largest_difference"]
    return [
        Heading(2, "The image in a virtual machine"),
        *headline(None, one),
        side_by_side("ms", [*starts, "stage/attestation", "stage/key_release", "inference", "end_to_end"], None, one),
        *transport(None, one),
        Items(
            [
                f"vectors: {difference:.2g} from this machine's at most",
                f"peak RSS of the enclave's process {number(one['memory']['peak_rss_mb'])} MB, of "
                f"{number(one['memory']['enclave_allocation_mb'])} MB that its machine has",
                *controls_said(one),
                *(f"not measured: {name}: {why}" for name, why in one["absent"].items()),
            ]
        ),
    ]


def nitro(enclave: Result, more: Sequence[Result]) -> list[Block]:
    """Measured there, or what to expect."""
    there = [one for one in (enclave, *more) if one["platform"] == "nitro" and one["kind"] == "measured"]
    if there:
        names = ("inference", "end_to_end", "stage/attestation", "stage/key_release", "stage/fetch", "rtt/direct/64b",
                 "rtt/direct/1kb", "rtt/direct/64kb", "rtt/direct/1mb", "cold_start/first_answer")  # fmt: skip
        rows = [[name, *(cell(one, name) for one in there)] for name in names]
        return [Table(("measured on Nitro, ms", *(one["hardware"] for one in there)), rows)]
    if enclave["platform"] != "local":
        return [Paragraph("Not projected: only a run on the local platform is.")]
    rows = [
        [row.what, row.unit, number(row.local), "" if row.nitro is None else number(row.nitro), row.how]
        for row in project(enclave)
    ]
    words = (
        "**Projected, not measured.** Nobody has run this on Nitro yet; a result of `--platform nitro` takes this "
        f"table's place. vsock's figures: {SOURCE}."
    )
    return [Paragraph(words), Table(("figure", "unit", "local, measured", "Nitro, projected", "how"), rows)]


def published(bare: Result | None, enclave: Result) -> list[Block]:
    """Others' words about themselves, beside ours; what nobody published stays empty."""
    table: dict[str, Any] = json.loads(PUBLISHED_FILE.read_bytes())
    inside = "" if bare is None else share(overhead(enclave.samples["inference"], bare.samples["inference"]))
    ours = [
        f"**this run** ({enclave['platform']}, {enclave['kind']})",
        inside,
        f"{number(enclave.median('end_to_end'))} ms p50 end to end, {number(enclave.median('inference'))} ms inside",
        f"{number((enclave.median('cold_start/first_answer') or 0) / 1000)} s",
        f"{number(enclave['memory']['peak_rss_mb'])} MB peak RSS",
        "",
        "this page",
    ]
    rows = [ours]
    for row in table["rows"]:
        link = f"[{row['source']}]({row['url']})" if row["url"] else ""
        origin = f"{link}, {row['date']}: {row['note']}" if link else f"{row['date']}: {row['note']}"
        rows.append([row["name"], *(row[column] or "" for column in table["columns"]), origin])
    head = ("system", "inference overhead", "latency", "start", "memory", "USD for a million", "source")
    words = (
        "Different models, machines and boundaries: no two rows are a race. Empty: nobody published it, or we did not "
        "find it."
    )
    return [Table(head, rows), Paragraph(words)]
