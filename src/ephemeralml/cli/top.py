"""The live view of a host: what its metrics say, drawn again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.errors import CodecError, TransportError
from ephemeralml.terminal import can_redraw
from ephemeralml.texts import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ephemeralml.exposition import Family
    from ephemeralml.host.watch import Between

_NOTHING = "–"


def top(
    *,
    url: Annotated[str, typer.Option(help="Where the host's metrics are.")] = "http://127.0.0.1:9464/metrics",
    interval: Annotated[float, typer.Option(min=1, max=3600, help="Seconds from one reading to the next.")] = 2,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, of all since the host's start.")] = False,
) -> None:
    """Watch a host that runs with --metrics, until stopped (Ctrl-C). A host that is gone is waited for.

    Example: ephemeralml top --url http://127.0.0.1:9464/metrics
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from ephemeralml.host.watch import History, scrape  # noqa: PLC0415

    if not once and not can_redraw(sys.stdout):
        raise typer.BadParameter("standard output is no terminal that can redraw: use --once")
    console = Console()
    history = History()
    # The first reading tells an address that is wrong from a host that went away.
    frame = _frame(url, history.add(scrape(url)))
    if once:
        console.print(frame)
        return
    with Live(frame, console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            try:
                frame = _frame(url, history.add(scrape(url)))
            except (CodecError, TransportError) as error:
                frame = _gone(url, error)
            live.update(frame, refresh=True)


def _gone(url: str, error: CodecError | TransportError) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415

    return Text.assemble(("waiting for the host", "bold red"), f"  {url}\n{printable(str(error))}")


def _frame(url: str, seen: Between) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from ephemeralml.host import metrics  # noqa: PLC0415

    ready = seen.value(metrics.READY) == 1
    head = Text.assemble(("serving", "bold green") if ready else ("no enclave serves", "bold red"), f"  {url}\n")
    return Group(head, _facts(seen), Text(), _stages(seen))


def _facts(seen: Between) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 2))
    for name, value in _lines(seen):
        # Texts and no markup: codes and names are whoever's reached the host.
        table.add_row(Text(name, "bold"), Text(printable(value, 200)))
    return table


def _lines(seen: Between) -> Iterator[tuple[str, str]]:
    from ephemeralml.host import metrics as m  # noqa: PLC0415

    model = next((labels for labels, _ in seen.series(m.MODEL)), None)
    if model is None:
        yield "model", _NOTHING
    else:
        yield "model", f"{model['model']} version {model['version']}, {model['precision']}, {model['digest'][:16]}…"
    yield "ready", _ago(seen.value(m.READY_AT))
    yield "attested", ", ".join(f"{one['purpose']} {_ago(at)}" for one, at in seen.series(m.ATTESTED_AT)) or _NOTHING
    yield "reported", _ago(seen.value(m.REPORTED_AT))
    yield "connections", f"{_count(seen.value(m.CONNECTIONS))} open, {_count(seen.value(m.OPENED))} taken"
    yield "sessions", f"{_count(seen.value(m.SESSIONS))} open, {_count(seen.value(m.SESSIONS_OPENED))} opened"
    yield (
        "requests",
        f"{_count(seen.value(m.IN_WORK))} in work, {_rate(seen.rate(m.STAGE, '_count', stage='request'))}",
    )
    yield "to enclave", _rate(seen.rate(m.BYTES, direction="to_enclave"), "B")
    yield "to clients", _rate(seen.rate(m.BYTES, direction="to_client"), "B")
    yield "keys", _by(seen, m.RELEASES)
    yield "restarts", _by(seen, m.RESTARTS)
    yield "refused", _by(seen, m.REFUSED)
    yield "turned away", _by(seen, m.TURNED_AWAY)
    yield "errors", _by(seen, m.ERRORS)


def _stages(seen: Between) -> RenderableType:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from ephemeralml.host.metrics import STAGE  # noqa: PLC0415
    from ephemeralml.session.report import STAGES  # noqa: PLC0415

    told = "since the host's start" if seen.seconds is None else f"the last {seen.seconds:.0f} s"
    table = Table(f"stage, {told}", box=SIMPLE_HEAD)
    for title in ("rate", "p50", "p95"):
        table.add_column(title, justify="right")
    for stage in STAGES:
        quantiles = (seen.quantile(share, STAGE, stage=stage) for share in (0.5, 0.95))
        table.add_row(stage, _rate(seen.rate(STAGE, "_count", stage=stage)), *map(_milliseconds, quantiles))
    return table


def _by(seen: Between, family: Family) -> str:
    """Each count that is not 0 with its label, the largest first."""
    (label,) = family.labels
    found = sorted(((value, labels[label]) for labels, value in seen.series(family) if value), reverse=True)
    return ", ".join(f"{name} {value:,.0f}" for value, name in found) or "none"


def _ago(at: float | None) -> str:
    if at is None:
        return _NOTHING
    seconds = int(max(time.time() - at, 0))
    minutes, hours = seconds // 60, seconds // 3600
    return f"{seconds} s ago" if minutes < 2 else f"{minutes} min ago" if hours < 2 else f"{hours} h ago"


def _count(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:,.0f}"


def _rate(value: float | None, unit: str = "") -> str:
    return _NOTHING if value is None else f"{value:,.1f} {unit}/s".replace(" /", "/")


def _milliseconds(seconds: float | None) -> str:
    return _NOTHING if seconds is None else f"{seconds * 1000:,.1f} ms"
