"""A host's metrics from outside: read over HTTP, and what happened between two readings."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ephemeralml.errors import ConfigurationError, TransportError
from ephemeralml.exposition import MAX_BYTES, Family, Key, read

WINDOW_SECONDS: Final = 60
"""Rates and quantiles are of the time this long, at least: enclaves report every ten seconds."""

_TIMEOUT_SECONDS: Final = 5
_GROWING: Final = ("_total", "_bucket", "_count")


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples read at a time, in seconds of the monotonic clock."""

    at: float
    samples: dict[Key, float]


def scrape(url: str) -> Scrape:
    """Read the metrics at an http:// or https:// address, the latter's certificate as the system trusts it.

    Raises `ConfigurationError` (``metrics.url``) for another kind of address, `TransportError`
    (``metrics.unreachable``) when nobody answers with metrics in time, and `CodecError` as `exposition.read` does.
    """
    connection, path = _connection(url)
    try:
        connection.connect()
        with _seconds_to_end(_TIMEOUT_SECONDS, connection.sock):
            connection.request("GET", path)
            # Closed on its own: where the host hangs up afterwards, the connection has left its socket to the answer.
            with closing(connection.getresponse()) as answer:
                body = answer.read(MAX_BYTES + 1)
                left = answer.length
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, type(error).__name__) from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise _unreachable(url, f"status {answer.status}")
    # What is left of the length that it gave: `read` with a limit says nothing of it.
    if left and len(body) <= MAX_BYTES:
        raise _unreachable(url, "cut off")
    return Scrape(time.monotonic(), read(body.decode("utf-8", "replace")))


@contextmanager
def _seconds_to_end(seconds: float, stream: socket.socket) -> Iterator[None]:
    """Hang up on a peer that takes longer for all of it: the socket's own limit begins anew with each byte."""
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with suppress(OSError):
            # The connection's end, and not TLS's, which another thread is at.
            socket.socket.shutdown(stream, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    # What came without a length looks whole when it is cut off.
    if late.is_set():
        raise TimeoutError


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    """A connection, not yet made, and what to ask it for. As the address is, and not by way of a proxy or redirect."""
    try:
        parts = urlsplit(url)
        if parts.hostname and url.isascii() and url.isprintable() and " " not in url:
            path = parts.path or "/metrics"
            if parts.scheme == "http":
                return http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS), path
            if parts.scheme == "https":
                trusted = ssl.create_default_context()
                return http.client.HTTPSConnection(
                    parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS, context=trusted
                ), path
    # A port that is none.
    except ValueError:
        pass
    raise ConfigurationError(f"metrics are read at http(s)://HOST:PORT/metrics, not {url}", code="metrics.url")


def _unreachable(url: str, why: str) -> TransportError:
    return TransportError(
        f"no metrics at {url} ({why}); is the host running, with --metrics?", code="metrics.unreachable"
    )


@dataclass(frozen=True, slots=True)
class Between:
    """What happened between two readings of one host; with no earlier one, since its start."""

    now: Scrape
    before: Scrape | None = None

    @property
    def seconds(self) -> float | None:
        """How long it was, None since the start."""
        return None if self.before is None else self.now.at - self.before.at

    def value(self, family: Family, **labels: str) -> float | None:
        """A gauge, or a counter's total; None where there is no such sample."""
        return self.now.samples.get((family.name, tuple(sorted(labels.items()))))

    def series(self, family: Family) -> Iterator[tuple[dict[str, str], float]]:
        """The labels and value of each of its samples, without those whose labels are not the family's."""
        for (name, labels), value in self.now.samples.items():
            if name == family.name and {label for label, _ in labels} == set(family.labels):
                yield dict(labels), value

    def rate(self, family: Family, suffix: str = "", **labels: str) -> float | None:
        """How much a counter grew each second; None since the start."""
        if not self.seconds:
            return None
        return self._grown((family.name + suffix, tuple(sorted(labels.items())))) / self.seconds

    def quantile(self, share: float, family: Family, **labels: str) -> float | None:
        """As Prometheus's ``histogram_quantile``: evenly spread in its bucket, at most the highest bound.

        None when nothing was observed.
        """
        buckets = sorted((float(dict(key[1])["le"]), self._grown(key)) for key in self._buckets(family, labels))
        if not buckets or buckets[-1][1] <= 0:
            return None
        rank, lower, below = share * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if bound == float("inf"):
                break
            if count >= rank:
                return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
            lower, below = bound, count
        return lower

    def _buckets(self, family: Family, labels: dict[str, str]) -> Iterator[Key]:
        for key in self.now.samples:
            have = dict(key[1])
            if key[0] == f"{family.name}_bucket" and have.pop("le", None) is not None and have == labels:
                yield key

    def _grown(self, key: Key) -> float:
        return self.now.samples.get(key, 0) - (0 if self.before is None else self.before.samples.get(key, 0))


@dataclass(slots=True)
class History:
    """The readings of the last `WINDOW_SECONDS`, all of one life of the host."""

    _kept: deque[Scrape] = field(default_factory=deque)

    def add(self, latest: Scrape) -> Between:
        """What happened since the oldest reading that counts."""
        if self._kept and _began_again(self._kept[-1], latest):
            self._kept.clear()
        self._kept.append(latest)
        while len(self._kept) > 2 and self._kept[1].at <= latest.at - WINDOW_SECONDS:
            self._kept.popleft()
        return Between(latest, self._kept[0] if len(self._kept) > 1 else None)


def _began_again(before: Scrape, after: Scrape) -> bool:
    """Whether a counter went back, which it does at a start alone."""
    return any(after.samples.get(key, 0) < value for key, value in before.samples.items() if key[0].endswith(_GROWING))
