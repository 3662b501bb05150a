"""Threads that ask an enclave without pause."""

from __future__ import annotations

import threading
import time

from ephemeralml.client import Client, EmbedResult

PATIENCE = 60


class Load:
    """Threads that ask without pause; several share each client. Everything they got is kept."""

    def __init__(self, clients: list[Client], threads: int) -> None:
        self._stop = threading.Event()
        self.results: list[list[tuple[str, EmbedResult]]] = [[] for _ in range(threads)]
        self.raised: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number, clients[number % len(clients)]))
            for number in range(threads)
        ]

    def _ask(self, number: int, client: Client) -> None:
        turn = 0
        try:
            while not self._stop.is_set():
                text = f"thread {number} turn {turn}" + " and more" * (turn % 5)
                self.results[number].append((text, client.embed([text])))
                turn += 1
        except BaseException as error:  # noqa: BLE001
            self.raised.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Waits until every thread has had so many more answers, or one has failed."""
        goals = [len(results) + count for results in self.results]
        deadline = time.monotonic() + PATIENCE
        while not self.raised and any(len(results) < goal for results, goal in zip(self.results, goals, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
