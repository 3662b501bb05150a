"""The gateway's sessions: a few clients of one enclave, each request with the one that has the least to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ephemeralml.attestation import Policy
from ephemeralml.client import Client

SESSIONS: Final = 8
"""Enough that requests seldom share one, where they would wait for each other's turn to read."""


class Pool:
    """Clients that re-attest by themselves, as `Client` does. Thread-safe."""

    def __init__(self, address: str, *, policy: Policy, timeout: float) -> None:
        """`timeout` bounds each request, in seconds. Raises `ConfigurationError` as `Client` does."""
        self._lock = threading.Lock()
        self._busy = {Client(address, policy=policy, timeout=timeout): 0 for _ in range(SESSIONS)}

    def attest(self) -> None:
        """Open every session, now. Raises as `Client.embed` for the first that is refused."""
        for client in self._busy:
            client.verdict  # noqa: B018 - connects

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The client with the fewest requests in flight."""
        with self._lock:
            client = min(self._busy, key=self._busy.__getitem__)
            self._busy[client] += 1
        try:
            yield client
        finally:
            with self._lock:
                self._busy[client] -= 1

    @property
    def attestations(self) -> int:
        """How often an enclave proved itself to this gateway."""
        return sum(client.attestations for client in self._busy)

    def close(self) -> None:
        """End all sessions."""
        for client in self._busy:
            client.close()
