"""Clients under load: what they ask, how they end, and that wrong vectors end the run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.load import MOST_TEXTS, Mixed, ask_at_once, check_vectors
from ephemeralml.client import Client
from ephemeralml.errors import BusyError, TransportError


class FakeClient:
    """Counts what it is asked, and fails as told."""

    def __init__(self, *failures: Exception) -> None:
        self.asked: list[Sequence[str]] = []
        self._failures = list(failures)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> object:
        with self._lock:
            if self._failures:
                raise self._failures.pop()
            self.asked.append(texts)
        return None


def clients(*fakes: FakeClient) -> list[Client]:
    return [cast("Client", fake) for fake in fakes]


def run(mixed: Mixed, fakes: list[FakeClient], **named: Any) -> None:
    for thread in mixed.run(clients(*fakes), **named):
        thread.join(30)
        assert not thread.is_alive()


def test_so_many_requests_of_one_to_eight_texts() -> None:
    fakes = [FakeClient(), FakeClient()]
    mixed = Mixed(["a", "b", "c"])
    run(mixed, fakes, requests=100)
    mixed.check()
    asked = [request for fake in fakes for request in fake.asked]
    assert len(asked) == len(mixed.answered) == 100
    assert {len(request) for request in asked} == set(range(1, MOST_TEXTS + 1))


def test_a_busy_enclave_is_asked_again_later() -> None:
    fake = FakeClient(BusyError("busy", retry_after=0.01))
    mixed = Mixed(["a"])
    run(mixed, [fake], requests=3)
    mixed.check()
    assert len(fake.asked) == 3


def test_a_failed_client_ends_the_run_and_says_why() -> None:
    broken = FakeClient(TransportError("the host went away", code="transport.closed"))
    mixed = Mixed(["a"])
    run(mixed, [broken, FakeClient()])
    with pytest.raises(BenchError, match="the host went away"):
        mixed.check()


def test_windows_count_every_answer() -> None:
    fakes = [FakeClient(), FakeClient()]
    latencies, seconds = ask_at_once(clients(*fakes), ["a", "b", "c"], seconds=0.05)
    assert len(latencies) == sum(len(fake.asked) for fake in fakes) > 0
    assert seconds >= 0.05
    assert all(len(request) == 1 for fake in fakes for request in fake.asked)


def test_a_failure_in_a_window_is_no_throughput() -> None:
    broken = FakeClient(TransportError("gone", code="transport.closed"))
    with pytest.raises(BenchError, match="gone"):
        ask_at_once(clients(broken), ["a"], seconds=0.01)


def test_other_vectors_end_the_run() -> None:
    ours = np.eye(2, dtype=np.float32)
    assert check_vectors(ours + np.float32(2e-6), ours) < 1e-5
    for wrong in (ours + np.float32(1e-3), np.full_like(ours, np.nan)):
        with pytest.raises(BenchError, match="differ"):
            check_vectors(wrong, ours)
