"""`ephemeralml top`: one frame, the live view at a terminal, a host that goes away and comes back, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from samples import IDLE, OWNER, make_manifest
from terminal import Terminal

from ephemeralml.errors import EphemeralMLError
from ephemeralml.host.metrics import HostMetrics
from ephemeralml.host.metrics_page import MetricsPage
from ephemeralml.host.relay import Relay
from ephemeralml.session.report import STAGES
from ephemeralml.session.transport import Address, listen

from .conftest import Run

TOP = [sys.executable, "-m", "ephemeralml.cli", "top", "--interval", "1"]


def busy(metrics: HostMetrics, requests: int) -> None:
    """An enclave reports so many requests, each between 4 and 8 ms."""
    stage = tuple(requests if bucket == 3 else 0 for bucket in range(len(IDLE.stages[0])))
    stages = tuple(stage if name == "request" else IDLE.stages[0] for name in STAGES)
    metrics.reported(replace(IDLE, sessions_open=3, sessions=1234, in_work=2, refused=(7, 0, 0, 0), stages=stages))


def full() -> HostMetrics:
    metrics = HostMetrics()
    metrics.ready(make_manifest().sign(OWNER))
    metrics.restarted(EphemeralMLError("why", code="enclave.ended"))
    metrics.released("broker")
    busy(metrics, 100)
    return metrics


@contextmanager
def served(metrics: HostMetrics, port: int = 0, *, serving: bool = True) -> Iterator[int]:
    """The port at which a host's own page has these metrics."""
    loop, up, ports = asyncio.new_event_loop(), threading.Event(), []

    async def main() -> None:
        relay = Relay(None, on_closed=lambda _: None)
        page = MetricsPage(lambda: metrics.render(relay, serving=serving))
        server, address = await listen(Address("tcp", host="127.0.0.1", port=port), page.connected)
        ports.append(address.port)
        stop = asyncio.Event()
        stops.append(stop)
        up.set()
        await stop.wait()
        server.close()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    stops: list[asyncio.Event] = []
    thread = threading.Thread(target=loop.run_until_complete, args=[main()])
    thread.start()
    try:
        assert up.wait(60)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stops[0].set)
        thread.join()
        loop.close()


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/metrics"


def line(out: str, name: str) -> str:
    found = re.search(rf"^ *{name}  +(.*?) *$", out, re.MULTILINE)
    assert found, out
    return found[1]


def test_one_frame_says_what_the_metrics_say(run: Run) -> None:
    with served(full()) as port:
        status, out, err = run("top", "--once", "--url", url(port))
    assert (status, err) == (0, "")
    assert out.startswith("serving")
    assert line(out, "model").startswith("all-MiniLM-L6-v2 version 3, ")
    assert line(out, "sessions") == "3 open, 1,234 opened"
    assert line(out, "requests").startswith("2 in work")
    assert line(out, "keys") == "broker 1"
    assert line(out, "restarts") == "enclave.ended 1"
    assert line(out, "refused") == "busy 7"
    assert line(out, "errors") == "none"
    assert re.fullmatch(r"\d s ago", line(out, "reported"))
    # All are in the bucket from 4 to 8 ms.
    assert line(out, "request").split() == ["–", "6.0", "ms", "7.8", "ms"]
    assert line(out, "engine").split() == ["–", "–", "–"]
    assert max(map(len, out.splitlines())) <= 80


def test_a_host_without_an_enclave_is_no_error(run: Run) -> None:
    with served(HostMetrics(), serving=False) as port:
        status, out, _ = run("top", "--once", "--url", url(port))
    assert status == 0
    assert out.startswith("no enclave serves")
    assert line(out, "model") == line(out, "ready") == "–"


def test_no_host_is_one(run: Run) -> None:
    with served(HostMetrics()) as port:
        pass
    status, out, err = run("top", "--once", "--url", url(port))
    assert (status, out) == (1, "")
    assert "[metrics.unreachable]" in err


def test_what_a_page_says_is_no_command_to_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "\x1b]0;x\x07[red]\u202e"
    monkeypatch.setattr(
        HostMetrics, "render", lambda self, relay, *, serving: f'ephemeralml_host_errors_total{{code="{hostile}"}} 1\n'
    )
    with served(HostMetrics()) as port:
        status, out, _ = run("top", "--once", "--url", url(port))
    assert status == 0
    assert line(out, "errors") == "?]0;x?[red]? 1"


def test_a_live_view_needs_a_terminal(run: Run) -> None:
    status, _, err = run("top", "--url", "http://127.0.0.1:1/metrics")
    assert status == 2
    assert "--once" in err


def test_the_live_view_waits_for_a_host_that_is_gone_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    metrics = full()
    with ExitStack() as stack:
        host = stack.enter_context(ExitStack())
        port = host.enter_context(served(metrics))
        terminal = stack.enter_context(
            Terminal([*TOP, "--url", url(port)], environment=os.environ | {"NO_COLOR": "1"}, folder=tmp_path)
        )
        terminal.wait_for("stage, since the host's start")
        busy(metrics, 160)
        terminal.wait_for("the last ")
        host.close()
        terminal.wait_for("waiting for the host")
        terminal.wait_for("is the host running")
        # Another life of it: nothing is a difference to the one before.
        with served(full(), port):
            terminal.wait_for("stage, since the host's start")
            terminal.interrupt()
            status, shown = terminal.end()
    assert status == 130
    # The screen that was there before, with its cursor.
    assert shown.endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in shown
