"""Benchmarks: measure, and turn a result into words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ephemeralml.cli.model import find_model
from ephemeralml.cli.output import AsJson, print_json

app = typer.Typer(help="How fast it is here, beside other engines.", no_args_is_help=True)


@app.command()
def speed(
    *,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result and its picture.")] = Path("bench-results"),
    quick: Annotated[bool, typer.Option("--quick", help="Few samples: whether it works, and roughly.")] = False,
    soak: Annotated[
        float | None, typer.Option(min=0.1, help="Minutes of mixed load to add (case i); default: none.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="These cases alone, letters separated by commas; default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure speed, memory and start beside other engines. On two threads; engines not installed are left out.

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
    if as_json:
        print_json(result)
        return
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


class Platform(StrEnum):
    """Where the enclave runs."""

    LOCAL = "local"
    VM = "vm"
    NITRO = "nitro"


@app.command("run")
def run_suite(
    *,
    platform: Annotated[Platform, typer.Option(help="What runs the enclave.")] = Platform.LOCAL,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("bench-results"),
    iterations: Annotated[
        int | None, typer.Option(min=5, max=100_000, help="Timed calls; default: 100, quick 20; on vm 20 and 5.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, max=1000, help="Discarded calls before them.")] = 3,
    skip_baseline: Annotated[bool, typer.Option("--skip-baseline", help="The enclave alone.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few samples: whether it works, and roughly.")] = False,
    package: Annotated[
        str | None, typer.Option(help="vm, nitro: the package, its key released to both images.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="vm, nitro: the clients' policy for the image that serves.")
    ] = None,
    eif: Annotated[Path | None, typer.Option(help="vm, nitro: the image that serves.")] = None,
    bench_eif: Annotated[Path | None, typer.Option(help="vm, nitro: the image that measures itself.")] = None,
    connect: Annotated[str, typer.Option(help="vm, nitro: where the enclave listens.")] = "vsock://16:5000",
    memory: Annotated[int, typer.Option(min=64, help="vm, nitro: memory of the enclave, MiB.")] = 1024,
    host_option: Annotated[list[str] | None, typer.Option(help="vm, nitro: one more word for host run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the six metrics on bare metal and in an enclave.

    Writes baseline_results.json and enclave_results.json, and their raw samples. On local it makes all it needs, on vm
    too where it is given none of package, policy and images; an emulated processor is compared with no bare metal.

    Example: ephemeralml bench run --quick --output-dir bench-results

    On an instance: ephemeralml bench run --platform nitro --package package --policy policy.json --eif enclave.eif
    --bench-eif bench.eif --host-option=--cid --host-option=16
    """
    from ephemeralml.bench.suite.effort import Effort  # noqa: PLC0415
    from ephemeralml.bench.suite.run import measure_here, measure_on  # noqa: PLC0415 - all engines behind it

    emulated = platform is Platform.VM
    effort = Effort.of(iterations=iterations, warmups=warmup, quick=quick, emulated=emulated)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"bench: {time.monotonic() - started:5.0f} s  {line}", file=sys.stderr, flush=True)

    folder = find_model(model)
    if platform is Platform.LOCAL or (emulated and not any((package, policy, eif, bench_eif))):
        paths = measure_here(
            folder,
            output_dir,
            memory_mib=memory if emulated else None,
            baseline=not skip_baseline,
            effort=effort,
            say=say,
        )
    else:
        if package is None or policy is None or eif is None or bench_eif is None:
            raise typer.BadParameter(f"--platform {platform.value} needs --package, --policy, --eif and --bench-eif")
        paths = measure_on(
            platform.value,
            folder,
            output_dir,
            package=package,
            policy=policy,
            images=(eif, bench_eif),
            connect=connect,
            memory_mib=memory,
            options=tuple(host_option or ()),
            baseline=not skip_baseline,
            effort=effort,
            say=say,
        )
    _print_paths(paths, as_json=as_json)


@app.command()
def gateway(
    *,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
) -> None:
    """Measure the gateway beside `Client`, as JSON. Both ask the same enclave.

    Example: ephemeralml bench gateway
    """
    from ephemeralml.bench.gateway import compare  # noqa: PLC0415

    print_json(compare(find_model(model), say=_say))


@app.command()
def corpus(
    *,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
) -> None:
    """Measure `embed` of many texts beside the engine alone, as JSON.

    Example: ephemeralml bench corpus
    """
    from ephemeralml.bench.corpus import compare  # noqa: PLC0415

    print_json(compare(find_model(model), say=_say))


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="baseline_results.json and enclave_results.json, and others.")],
    *,
    output: Annotated[Path | None, typer.Option(help="The page; its HTML and pictures go beside it.")] = None,
    prices: Annotated[Path | None, typer.Option(help="JSON of what an hour costs, by instance.")] = None,
    picture: Annotated[
        str | None, typer.Option(help="Of a speed result: the PNG's path as the reader finds it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn results into a page with pictures. In Markdown and HTML; a result of `bench speed` is printed.

    Example: ephemeralml bench report bench-results/baseline_results.json bench-results/enclave_results.json --output
    bench-results/benchmark_report.md
    """
    from ephemeralml.bench import report as words  # noqa: PLC0415
    from ephemeralml.bench.results import kind_of, read  # noqa: PLC0415
    from ephemeralml.bench.speed import SCHEMA  # noqa: PLC0415
    from ephemeralml.bench.suite.report import write_report  # noqa: PLC0415

    if kind_of(results[0]) == SCHEMA:
        if as_json:
            raise typer.BadParameter("--json names the files of a page, and this is printed: the result is JSON itself")
        print(words.markdown(read(results[0], SCHEMA), picture=picture), end="")
        return
    if output is None:
        raise typer.BadParameter("--output says where the page goes")
    _print_paths(write_report(results, output, prices=prices), as_json=as_json)


@app.command()
def peers(
    *,
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("bench-results"),
    quick: Annotated[bool, typer.Option("--quick", help="Few samples: whether it works, and roughly.")] = False,
    as_json: AsJson = False,
) -> None:
    """Other libraries beside ours in one run. One short text, and 128 mixed ones in one call.

    These are cases a and c of `bench speed`. Needs what `make bench-speed` installs.

    Example: ephemeralml bench peers --quick
    """
    speed(model=model, out=output_dir, quick=quick, soak=None, only="a,c", as_json=as_json)


def _print_paths(paths: Iterable[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        print(path)


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _show(console: Console, title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 or len(head) == 5 else "right")
    for row in rows:
        # Not markup: names hold brackets and reasons hold anything.
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
    console.print()
