"""What the gateway counts, for Prometheus. Nothing of it is about one text."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

from ephemeralml.exposition import ByCode, Family, histogram, render, sample

REQUESTS: Final = Family(
    "ephemeralml_gateway_requests_total",
    "counter",
    "Requests answered, refused ones included.",
    ("endpoint", "status"),
)
ERRORS: Final = Family(
    "ephemeralml_gateway_errors_total", "counter", "Requests that ended in an error, by its code.", ("code",)
)
SECONDS: Final = Family(
    "ephemeralml_gateway_request_seconds", "histogram", "From the request's head to its answer.", ("endpoint",)
)
TOKENS: Final = Family("ephemeralml_gateway_tokens_total", "counter", "Tokens that the model read.")
IN_FLIGHT: Final = Family("ephemeralml_gateway_in_flight", "gauge", "Requests in work.")
ATTESTATIONS: Final = Family(
    "ephemeralml_gateway_attestations_total", "counter", "Sessions opened, each after a verified proof."
)
FAMILIES: Final = (REQUESTS, ERRORS, SECONDS, TOKENS, IN_FLIGHT, ATTESTATIONS)

_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds."""


class Metrics:
    """Counters since the start, and one histogram for each endpoint. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._errors = ByCode()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._tokens = 0

    def answered(self, endpoint: str, status: int, seconds: float, *, code: str | None = None) -> None:
        """Count a request; `code` is of the error it ended in, which may be a relay's word. `endpoint` is ours."""
        with self._lock:
            self._requests[endpoint, status] += 1
            buckets = self._buckets.setdefault(endpoint, [0] * (len(_BUCKETS) + 1))
            buckets[bisect_left(_BUCKETS, seconds)] += 1
            self._seconds[endpoint] += seconds
            if code is not None:
                self._errors.add(code)

    def read(self, tokens: int) -> None:
        """Count the tokens that the model read for an answer."""
        with self._lock:
            self._tokens += tokens

    def render(self, *, in_flight: int, attestations: int) -> str:
        """Everything, with two values that others keep."""
        with self._lock:
            requests = [
                sample(count, endpoint=endpoint, status=str(status))
                for (endpoint, status), count in sorted(self._requests.items())
            ]
            errors = self._errors.samples()
            seconds = [
                one
                for endpoint, counts in sorted(self._buckets.items())
                for one in histogram(_BUCKETS, counts, total=self._seconds[endpoint], endpoint=endpoint)
            ]
            tokens = self._tokens
        return render(
            [
                (REQUESTS, requests),
                (ERRORS, errors),
                (SECONDS, seconds),
                (TOKENS, [sample(tokens)]),
                (IN_FLIGHT, [sample(in_flight)]),
                (ATTESTATIONS, [sample(attestations)]),
            ]
        )
