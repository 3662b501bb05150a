"""Clients that keep asking: what a served enclave is measured under."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.peers import Vectors
from ephemeralml.client import Client
from ephemeralml.errors import BusyError

MIXED_CLIENTS: Final = 4
MOST_TEXTS: Final = 8
# What the precision of the package promises of its vectors, wherever they are computed.
_TOLERANCE: Final = 1e-5


def check_vectors(vectors: Vectors, expected: Vectors) -> float:
    """Their largest difference. Raises `BenchError` when the enclave computed something else than this process."""
    difference = float(np.abs(vectors - expected).max())
    if not difference <= _TOLERANCE:
        raise BenchError(
            f"the enclave's vectors differ from those computed here by {difference:.2g}", code="bench.vectors"
        )
    return difference


@dataclass(slots=True)
class Mixed:
    """Requests of 1 to 8 mixed texts by a few clients at once: what an enclave sees in steady use."""

    pool: Sequence[str]
    stop: threading.Event = field(default_factory=threading.Event)
    answered: list[tuple[float, float]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    _left: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, clients: Sequence[Client], *, requests: int | None = None) -> list[threading.Thread]:
        """Start one thread for each client; they end after `requests` in all, or when `stop` is set."""
        self._left = requests
        threads = [
            threading.Thread(target=self._ask, args=(client, seed), daemon=True) for seed, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        return threads

    def check(self) -> None:
        """Raises `BenchError` when a client failed."""
        if self.failures:
            raise BenchError(f"a client failed under load: {self.failures[0]}", code="bench.load")

    def _ask(self, client: Client, seed: int) -> None:
        chooser = random.Random(seed)  # noqa: S311 - to be the same each time
        try:
            while self._take():
                chosen = chooser.choices(self.pool, k=chooser.randint(1, MOST_TEXTS))
                start = time.perf_counter()
                try:
                    client.embed(chosen)
                except BusyError as busy:
                    self._give_back()
                    time.sleep(busy.retry_after)
                    continue
                end = time.perf_counter()
                self.answered.append((end, (end - start) * 1000))
        # Handed to the thread that waits.
        except Exception as error:  # noqa: BLE001
            self.failures.append(error)
            self.stop.set()

    def _give_back(self) -> None:
        with self._lock:
            if self._left is not None:
                self._left += 1

    def _take(self) -> bool:
        with self._lock:
            if self._left is not None:
                self._left -= 1
            return not self.stop.is_set() and (self._left is None or self._left >= 0)


class Asked(Protocol):
    """Whoever answers texts: a client, or something that stands before one."""

    def embed(self, texts: Sequence[str]) -> object:
        """Their vectors, in whatever form."""


def ask_at_once(clients: Sequence[Asked], short: Sequence[str], *, seconds: float) -> tuple[list[float], float]:
    """One thread for each client, asking one text after the other; ms of each answer, and the seconds it all took."""
    latencies: list[list[float]] = [[] for _ in clients]
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(clients) + 1)

    def ask(index: int) -> None:
        barrier.wait()
        end = time.perf_counter() + seconds
        number = index
        try:
            while (start := time.perf_counter()) < end:
                clients[index].embed([short[number % len(short)]])
                latencies[index].append((time.perf_counter() - start) * 1000)
                number += len(clients)
        # Handed to the thread that waits.
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(len(clients))]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    if failures:
        raise BenchError(f"a client failed under load: {failures[0]}", code="bench.load") from failures[0]
    return [value for values in latencies for value in values], elapsed
