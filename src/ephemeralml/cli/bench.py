"""Benchmarks: measure, and turn a result into words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ephemeralml.cli.model import find_model

app = typer.Typer(help="How fast it is here, beside other engines.", no_args_is_help=True)


@app.command()
def speed(
    *,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result and its picture.")] = Path("bench-results"),
    quick: Annotated[bool, typer.Option("--quick", help="Few samples: whether it works, and roughly.")] = False,
    soak: Annotated[float | None, typer.Option(min=0.1, help="Add so many minutes of mixed load (case i).")] = None,
    only: Annotated[str | None, typer.Option(help="These cases alone, letters separated by commas.")] = None,
) -> None:
    """Measure latency, throughput, scaling, memory and start, on two threads, beside other engines where installed.

    Cases: a one text, b the same sealed, c 128 mixed texts, d 16 clients, e cost per token, f arithmetic, g memory,
    h cold start, j from S3; i is the soak.

    Example: ephemeralml bench speed --quick --only a,c --out bench-results
    """
    from ephemeralml.bench import report as words  # noqa: PLC0415 - all engines behind it
    from ephemeralml.bench.speed import missed, run  # noqa: PLC0415

    path, result = run(
        find_model(model),
        out,
        only=only,
        quick=quick,
        soak_minutes=soak,
        say=lambda line: print(f"bench: {line}", file=sys.stderr, flush=True),
    )
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(words.headline(result), markup=False, highlight=False)
    for letter, case in result["cases"].items():
        if rows := words.series_rows(letter, case):
            _show(console, f"({letter}) {case['title']}", words.SERIES_HEAD, rows)
        _show(console, "" if rows else f"({letter}) {case['title']}", ("figure", "value"), words.figure_rows(case))
        for line in words.absences(case):
            console.print(f"not measured: {line}\n", markup=False, highlight=False)
    _show(console, "Targets", words.TARGET_HEAD, words.target_rows(result))
    if warning := words.disturbed(result):
        console.print(warning, style="bold", markup=False, highlight=False)
    console.print(f"{missed(result['targets'])} targets missed; all figures: {path}", markup=False, highlight=False)


@app.command()
def gateway(
    *,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
) -> None:
    """Measure the gateway beside `Client`, on the same enclave, and print the figures as JSON.

    Example: ephemeralml bench gateway
    """
    from ephemeralml.bench.gateway import compare  # noqa: PLC0415

    figures = compare(find_model(model), say=lambda line: print(f"bench: {line}", file=sys.stderr, flush=True))
    print(json.dumps(figures, indent=2))


@app.command()
def report(
    result: Annotated[Path, typer.Argument(help="A result file of bench speed.")],
    *,
    picture: Annotated[str | None, typer.Option(help="The PNG's path as the reader of the page finds it.")] = None,
) -> None:
    """Print a result as Markdown.

    Example: ephemeralml bench report bench-results/speed-20260101T120000Z.json --picture images/speed.png
    """
    from ephemeralml.bench.report import markdown  # noqa: PLC0415
    from ephemeralml.bench.speed import read  # noqa: PLC0415

    print(markdown(read(result), picture=picture), end="")


def _show(console: Console, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 or len(head) == 5 else "right")
    for row in rows:
        # Not markup: names hold brackets and reasons hold anything.
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
    console.print()
