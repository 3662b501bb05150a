"""The gateway beside `Client`, on one enclave: what HTTP adds to an answer, and what it takes from throughput."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ephemeralml.bench import machine
from ephemeralml.bench.deployment import Deployment, Served
from ephemeralml.bench.load import Asked, ask_at_once
from ephemeralml.bench.record import record
from ephemeralml.bench.timing import interleave
from ephemeralml.devcloud.world import Process
from ephemeralml.errors import EphemeralMLError

CALLERS: Final = 16
ROUNDS: Final = 300
WINDOWS: Final = 9
WINDOW_SECONDS: Final = 3.0
_TEXTS: Final = tuple(f"the quick brown fox jumps over {number}" for number in range(100))


class HttpCaller:
    """One caller with one connection, kept alive: as little as a program can do to ask."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def embed(self, texts: Sequence[str]) -> bytes:
        """The answer's body. Raises `EphemeralMLError` for any status but 200."""
        body = json.dumps({"model": "benchmark", "input": texts, "encoding_format": "base64"})
        self._connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise EphemeralMLError(f"the gateway answered {answer.status}", code="bench.gateway")
        return content

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def compare(model: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Milliseconds for one text by one caller, texts a second by 16 of one text each, what is added and what is kept.

    Callers, gateway, relay and enclave share two CPUs: what the gateway computes, the engine goes without.
    """
    with machine.two_cpus():
        started, about, before = datetime.now(UTC), machine.describe(), machine.busy()
        with tempfile.TemporaryDirectory(prefix="ephemeralml-") as folder, ExitStack() as stack:
            deployment = stack.enter_context(Deployment(Path(folder), model))
            served = stack.enter_context(deployment.serve())
            url = stack.enter_context(_gateway(served, Path(folder)))
            clients = [stack.enter_context(served.client()) for _ in range(CALLERS)]
            callers = [HttpCaller(url) for _ in range(CALLERS)]
            for caller in callers:
                stack.callback(caller.close)
            say("one caller")
            one = [_TEXTS[0]]
            calls = {"client_ms": lambda: clients[0].embed(one), "gateway_ms": lambda: callers[0].embed(one)}
            samples = interleave(calls, rounds=ROUNDS)
            asked: dict[str, Sequence[Asked]] = {
                "client_texts_per_second": clients,
                "gateway_texts_per_second": callers,
            }
            rates: dict[str, list[float]] = {name: [] for name in asked}
            for number in range(WINDOWS):
                say(f"{CALLERS} callers, window {number + 1} of {WINDOWS}")
                for name, asking in asked.items():
                    answered, seconds = ask_at_once(asking, _TEXTS, seconds=WINDOW_SECONDS)
                    rates[name].append(len(answered) / seconds)
        pairs = zip(samples["gateway_ms"], samples["client_ms"], strict=True)
        both = zip(rates["gateway_texts_per_second"], rates["client_texts_per_second"], strict=True)
        added = {"added_ms": [above - below for above, below in pairs]}
        kept = {"share_of_throughput": [gateway / client for gateway, client in both]}
        series = {**samples, **added, **rates, **kept}
        return record(series, started=started, about=about, neighbours=(before, machine.busy()))


@contextmanager
def _gateway(served: Served, folder: Path) -> Iterator[str]:
    policy = folder / "gateway-policy.json"
    served.policy.save(policy)
    arguments = ("--policy", str(policy), "--relay", served.relay, "--listen", "tcp://127.0.0.1:0")
    with Process("gateway", *arguments, log=folder / "gateway.log") as process:
        yield process.wait_for("serving on").split()[-1]
