"""The gateway beside `Client`, on one enclave: what HTTP adds to an answer, and what it takes from throughput."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ephemeralml.bench.deployment import Deployment, Served
from ephemeralml.bench.load import ask_at_once
from ephemeralml.bench.timing import interleave, median, median_ratio, significant, summarise
from ephemeralml.devcloud.world import Process
from ephemeralml.errors import EphemeralMLError

CALLERS: Final = 16
ROUNDS: Final = 300
WINDOWS: Final = 5
WINDOW_SECONDS: Final = 4.0
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


def compare(model: Path, *, say: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds for one text by one caller, texts a second by 16 of one text each, and the two ratios.

    Callers, gateway, relay and enclave share one machine: what the gateway computes, the engine goes without.
    """
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
        calls = {"client": lambda: clients[0].embed(one), "gateway": lambda: callers[0].embed(one)}
        samples = interleave(calls, rounds=ROUNDS)
        rates: dict[str, list[float]] = {"client": [], "gateway": []}
        for number in range(WINDOWS):
            say(f"{CALLERS} callers, window {number + 1} of {WINDOWS}")
            for name, asking in (("client", clients), ("gateway", callers)):
                answered, seconds = ask_at_once(asking, _TEXTS, seconds=WINDOW_SECONDS)
                rates[name].append(len(answered) / seconds)
    both = summarise(samples["client"]).p50, summarise(samples["gateway"]).p50
    paired = [above - below for above, below in zip(samples["gateway"], samples["client"], strict=True)]
    figures = {
        "client_p50_ms": both[0],
        "gateway_p50_ms": both[1],
        "added_p50_ms": both[1] - both[0],
        "added_paired_median_ms": median(paired),
        "client_texts_per_second": median(rates["client"]),
        "gateway_texts_per_second": median(rates["gateway"]),
        "throughput_ratio": median_ratio(rates["gateway"], rates["client"]),
    }
    return {name: significant(value) for name, value in figures.items()}


@contextmanager
def _gateway(served: Served, folder: Path) -> Iterator[str]:
    policy = folder / "gateway-policy.json"
    served.policy.save(policy)
    arguments = ("--policy", str(policy), "--relay", served.relay, "--listen", "tcp://127.0.0.1:0")
    with Process("gateway", *arguments, log=folder / "gateway.log") as process:
        yield process.wait_for("serving on").split()[-1]
