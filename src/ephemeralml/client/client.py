"""The data owner's client: verifies an enclave, keeps a session with it, and asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Self

from ephemeralml.attestation import Policy, Verdict
from ephemeralml.client.connection import Connection, SessionEndedError
from ephemeralml.client.result import EmbedResult
from ephemeralml.errors import TransportError
from ephemeralml.session.transport import Address
from ephemeralml.texts import check_texts

_log = logging.getLogger("ephemeralml.client")


class Client:
    """Talks to one enclave through its host's relay. Thread-safe; many requests may be in flight.

        with Client("tcp://127.0.0.1:7001", policy=Policy.load("policy.json")) as client:
            result = client.embed(["a text"])

    `timeout` bounds each wait on the network, in seconds. Nothing is sent before the evidence passed `policy`.
    When a session ends (idle, lifetime, a restarted enclave) the client attests again and asks once more by itself, and
    logs so to ``ephemeralml.client``; `attestations` counts them.
    """

    def __init__(self, address: str, *, policy: Policy, timeout: float = 30.0) -> None:
        self._address = Address.parse(address)
        self._policy = policy
        self._timeout = timeout
        # Held while a handshake lasts; `_lock` never is, so `close` does not wait for a silent host.
        self._connecting = threading.Lock()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closes = 0
        self.attestations = 0

    def __enter__(self) -> Self:
        self._connected()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def verdict(self) -> Verdict:
        """What the current session's evidence proved; connects when there is none. Raises as `embed` does."""
        return self._connected().attested.verdict

    def embed(self, texts: Sequence[str]) -> EmbedResult:
        """Embed `texts`: float32 vectors (n, dimension) in their order, and a verified receipt.

        Raises `AttestationError` or `PackageError` (evidence refused, nothing was sent), `BusyError` (retry after
        `.retry_after`), `RequestError` (this request will never do), `SessionError` (the session was tampered with),
        `ReceiptError` (the answer is not proved), `TransportError` (unreachable, silent or gone).
        """
        checked = check_texts(texts)
        connection = self._connected()
        try:
            return connection.embed(checked)
        except SessionEndedError as end:
            _log.warning("%s; attesting again", end)
        return self._connected().embed(checked)

    def close(self) -> None:
        """End the session. The client may be used again and then attests anew."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._closes += 1
        if connection is not None:
            connection.close()

    def _connected(self) -> Connection:
        with self._connecting:
            with self._lock:
                current, closes = self._connection, self._closes
            if current is not None and not current.ended:
                return current
            fresh = Connection(self._address, policy=self._policy, timeout=self._timeout)
            with self._lock:
                closed = self._closes != closes
                if not closed:
                    self._connection = fresh
                    self.attestations += 1
        if closed:
            fresh.close()
            raise TransportError("the client was closed while it connected", code="session.closed")
        return fresh
