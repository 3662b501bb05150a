"""The data owner's client: verifies an enclave, keeps a session with it, and asks."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from ephemeralml.attestation import Policy, Verdict
from ephemeralml.client.batches import answers, normalized
from ephemeralml.client.channel import SessionEndedError
from ephemeralml.client.connection import Connection
from ephemeralml.client.progress import progress_bar
from ephemeralml.client.result import EmbedResult
from ephemeralml.errors import BusyError, ConfigurationError, RequestError, TransportError
from ephemeralml.package.manifest import Manifest
from ephemeralml.session.transport import Address
from ephemeralml.texts import check_texts

_log = logging.getLogger("ephemeralml.client")
_MAX_TIMEOUT = 86_400
# Between two looks for an enclave that is away.
_AWAY_SECONDS = 0.5
# What a client meets whose enclave goes, or is replaced, in the middle of the handshake.
_REPLACED = frozenset({"unavailable", "transport.closed"})
_RELAY_VARIABLE = "EPHEMERALML_RELAY"
_POLICY_VARIABLE = "EPHEMERALML_POLICY"

Vectors = NDArray[np.float32]


class Client:
    """Talks to one enclave through its host's relay. Thread-safe; many requests may be in flight.

        with Client("tcp://127.0.0.1:7001", policy=Policy.load("policy.json")) as client:
            result = client.embed(["a text"])

    `timeout` bounds each call, in seconds, a second try included. Nothing is sent before the evidence passed `policy`.
    When a session ends (idle, lifetime, a restarted enclave) the client attests again and asks once more by itself, and
    logs so to ``ephemeralml.client``; `attestations` counts them. An enclave that is away then is waited for within the
    call's time; for a client without a session before it is a `BusyError` at once. Raises `ConfigurationError` for an
    address or a timeout that cannot work.
    """

    def __init__(self, address: str, *, policy: Policy, timeout: float = 30.0) -> None:
        self._address = Address.parse(address)
        self._policy = policy
        self._timeout = _checked_timeout(timeout)
        # Held while a handshake lasts; `_lock` never is, so `close` does not wait for a silent host.
        self._connecting = threading.Lock()
        self._lock = threading.Condition()
        self._connection: Connection | None = None
        self._closes = 0
        self.attestations = 0

    @classmethod
    def from_env(cls, *, timeout: float = 30.0) -> Self:
        """A client of the relay in ``EPHEMERALML_RELAY`` by the policy in the file ``EPHEMERALML_POLICY``.

        Raises `ConfigurationError` when one is not set, `PolicyError` for a file that is no policy.
        """
        relay, policy = (os.environ.get(name) for name in (_RELAY_VARIABLE, _POLICY_VARIABLE))
        if not relay or not policy:
            raise ConfigurationError(
                f"set {_RELAY_VARIABLE} to the relay's address and {_POLICY_VARIABLE} to a policy's file",
                code="client.environment",
            )
        return cls(relay, policy=Policy.load(policy), timeout=timeout)

    def __enter__(self) -> Self:
        self._connected(*self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def verdict(self) -> Verdict:
        """What the current session's evidence proved; connects when there is none. Raises as `embed` does."""
        return self._connected(*self._begin()).attested.verdict

    @property
    def manifest(self) -> Manifest:
        """The signed manifest of the model that the current session's enclave runs; connects when there is none."""
        return self._connected(*self._begin()).attested.manifest

    def embed(self, texts: Sequence[str]) -> EmbedResult:
        """Embed `texts`: float32 vectors (n, dimension) in their order, and a verified receipt.

        Raises `AttestationError` or `PackageError` (evidence refused, nothing was sent), `BusyError` (retry after
        `.retry_after`), `RequestError` (this request will never do), `SessionError` (the session was tampered with),
        `ReceiptError` (the answer is not proved), `TransportError` (unreachable, silent or gone).
        """
        checked = check_texts(texts)
        deadline, closes = self._begin()
        try:
            return self._connected(deadline, closes).embed(checked, deadline=deadline)
        except SessionEndedError as end:
            _log.warning("%s; attesting again", end, extra={"event": "attesting again", "fields": {"code": end.code}})
        return self._connected(deadline, closes).embed(checked, deadline=deadline)

    def embed_iter(self, texts: Iterable[str], *, batch_size: int = 128) -> Iterator[EmbedResult]:
        """Embed any number of texts: one result, with its receipt, for each `batch_size` of them, in order.

        A few requests are under way at a time, and no more of `texts` is read, nor kept, than these hold. An enclave
        that is busy is asked again. Raises as `embed`.
        """
        _check_batch_size(batch_size)
        if isinstance(texts, str):
            raise RequestError("texts must be strings, not one string", code="request.type")
        return answers(self.embed, texts, batch_size=batch_size)

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        convert_to_numpy: Literal[True] = ...,
        normalize_embeddings: bool = ...,
    ) -> Vectors: ...

    @overload
    def encode(
        self,
        sentences: Sequence[str],
        *,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        convert_to_numpy: Literal[False],
        normalize_embeddings: bool = ...,
    ) -> list[Vectors]: ...

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        normalize_embeddings: bool = False,
    ) -> Vectors | list[Vectors]:
        """The vectors alone, as sentence-transformers' ``encode`` gives them, each verified like `embed`'s.

        float32 (n, dimension) in the order given, (dimension,) for a single string, a list of (dimension,) when
        `convert_to_numpy` is false. The bar appears on a terminal only. Raises as `embed`.
        """
        _check_batch_size(batch_size)
        texts = check_texts([sentences] if isinstance(sentences, str) else sentences)
        rows: list[Vectors] = []
        with progress_bar(len(texts), shown=bool(show_progress_bar)) as advance:
            for result in answers(self.embed, texts, batch_size=batch_size):
                rows.append(result.vectors)
                advance(len(result.vectors))
        vectors = np.concatenate(rows) if rows else np.empty((0, self.manifest.spec.dimension), np.float32)
        if normalize_embeddings:
            vectors = normalized(vectors)
        if isinstance(sentences, str):
            single: Vectors = vectors[0]
            return single
        return vectors if convert_to_numpy else list(vectors)

    def close(self) -> None:
        """End the session. The client may be used again and then attests anew."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._closes += 1
            self._lock.notify_all()
        if connection is not None:
            connection.close()

    def _begin(self) -> tuple[float, int]:
        """When a call that begins now must be over (monotonic seconds), and how often the client was closed before."""
        with self._lock:
            return time.monotonic() + self._timeout, self._closes

    def _connected(self, deadline: float, closes: int) -> Connection:
        if not self._connecting.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TransportError("another call took all the time to connect", code="transport.timeout")
        try:
            with self._lock:
                current = self._connection
                self._check_open(closes)
            if current is not None and not current.ended:
                return current
            fresh = self._attest(deadline, closes, again=current is not None)
            try:
                with self._lock:
                    self._check_open(closes)
                    self._connection = fresh
                    self.attestations += 1
            except TransportError:
                fresh.close()
                raise
            return fresh
        finally:
            self._connecting.release()

    def _attest(self, deadline: float, closes: int, *, again: bool) -> Connection:
        """A new session, in the second try if the enclave was replaced during the first; `again`: in as many as fit."""
        pause = 0.0
        while True:
            try:
                return Connection(self._address, policy=self._policy, deadline=deadline, patience=self._timeout)
            except (BusyError, TransportError) as error:
                worth = error.code != "transport.timeout" if again else error.code in _REPLACED and not pause
                if not worth or time.monotonic() + pause >= deadline:
                    raise
                if not pause:
                    _log.warning(
                        "%s; trying again", error, extra={"event": "trying again", "fields": {"code": error.code}}
                    )
            with self._lock:
                self._lock.wait_for(lambda: self._closes != closes, pause)
                self._check_open(closes)
            pause = _AWAY_SECONDS

    def _check_open(self, closes: int) -> None:
        if self._closes != closes:
            raise TransportError("the client was closed before the answer came", code="session.closed")


def _checked_timeout(timeout: object) -> float:
    if not isinstance(timeout, int | float) or not 0 < timeout <= _MAX_TIMEOUT:
        raise ConfigurationError(f"timeout must be above 0 and at most {_MAX_TIMEOUT} seconds", code="client.timeout")
    return timeout


def _check_batch_size(batch_size: object) -> None:
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigurationError("batch_size must be a positive integer", code="client.batch_size")
