"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ephemeralml.terminal import can_redraw


@contextmanager
def progress_bar(total: int, *, done: int = 0, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of texts that were answered; `done` were before."""
    if not shown or not can_redraw(sys.stderr):
        yield lambda _: None
        return
    # A third of the client's import time, and few ask for it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("texts"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda count: progress.advance(task, count)
