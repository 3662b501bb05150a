"""What the gateway counts, as Prometheus reads it (text exposition format 0.0.4). Nothing of it is about one text."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "ephemeralml_gateway"
_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds."""


class Metrics:
    """Counters since the start, and one histogram for each endpoint. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._errors: Counter[str] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._tokens = 0

    def answered(self, endpoint: str, status: int, seconds: float, *, code: str | None = None) -> None:
        """Count a request; `code` is of the error it ended in. Both names are ours, never a caller's."""
        with self._lock:
            self._requests[endpoint, status] += 1
            buckets = self._buckets.setdefault(endpoint, [0] * (len(_BUCKETS) + 1))
            buckets[bisect_left(_BUCKETS, seconds)] += 1
            self._seconds[endpoint] += seconds
            if code is not None:
                self._errors[code] += 1

    def read(self, tokens: int) -> None:
        """Count the tokens that the model read for an answer."""
        with self._lock:
            self._tokens += tokens

    def render(self, *, in_flight: int, attestations: int) -> str:
        """Everything, with two values that others keep."""
        with self._lock:
            requests = [
                f'{{endpoint="{endpoint}",status="{status}"}} {count}'
                for (endpoint, status), count in sorted(self._requests.items())
            ]
            errors = [f'{{code="{code}"}} {count}' for code, count in sorted(self._errors.items())]
            seconds = [line for endpoint in sorted(self._buckets) for line in self._histogram(endpoint)]
            families = [
                ("requests_total", "counter", "Requests answered, refused ones included.", requests),
                ("errors_total", "counter", "Requests that ended in an error, by its code.", errors),
                ("request_seconds", "histogram", "From the request's head to its answer.", seconds),
                ("tokens_total", "counter", "Tokens that the model read.", [f" {self._tokens}"]),
                ("in_flight", "gauge", "Requests in work.", [f" {in_flight}"]),
                (
                    "attestations_total",
                    "counter",
                    "Sessions opened, each after a verified proof.",
                    [f" {attestations}"],
                ),
            ]
        return "".join(_family(*family) for family in families)

    def _histogram(self, endpoint: str) -> list[str]:
        lines, total = [], 0
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self._buckets[endpoint], strict=True):
            total += count
            lines.append(f'_bucket{{endpoint="{endpoint}",le="{bound}"}} {total}')
        lines.append(f'_sum{{endpoint="{endpoint}"}} {self._seconds[endpoint]:.6f}')
        lines.append(f'_count{{endpoint="{endpoint}"}} {total}')
        return lines


def _family(name: str, kind: str, explained: str, samples: list[str]) -> str:
    full = f"{_PREFIX}_{name}"
    head = f"# HELP {full} {explained}\n# TYPE {full} {kind}\n"
    return head + "".join(f"{full}{sample}\n" for sample in samples)
