"""One sealed session over one socket, shared by threads: whoever waits for an answer reads for all."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from hashlib import sha256
from typing import NoReturn

from ephemeralml.attestation import Policy
from ephemeralml.client.result import EmbedResult
from ephemeralml.errors import BusyError, EphemeralMLError, RequestError, SessionError, TransportError
from ephemeralml.receipts import Bundle, ReceiptPolicy, check_evidence, verify_receipt
from ephemeralml.session.blocking import FrameReader, read_frame, write_all
from ephemeralml.session.frames import FrameType
from ephemeralml.session.handshake import Attested, ClientHandshake, check_accept, now
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES, RECORD_FRAME_BYTES
from ephemeralml.session.messages import (
    NONCE_BYTES,
    SALT_BYTES,
    EmbedRequest,
    EmbedResponse,
    Notice,
    Refusal,
    Request,
    Response,
)
from ephemeralml.session.records import MAX_REQUEST, Opener, Sealer
from ephemeralml.session.transport import Address, connect

# Of a receipt's time against ours; the enclave's clock is the host's to some degree.
_CLOCK_SKEW_SECONDS = 300
# Requests given up on whose answers may still come, as many as an enclave works on for one session.
_MAX_ABANDONED = 32


class SessionEndedError(TransportError):
    """The session ended without an answer and without a violation; a new one may be opened and asked again."""


class _UnansweredError(TransportError):
    """One request was not answered in time, on a connection that goes on."""


class Connection:
    """A verified enclave at the other end. Raises before anything was sent when the evidence does not pass `policy`.

    A request that is not answered within `timeout` seconds fails alone, unless nothing at all was heard meanwhile.
    """

    def __init__(self, address: Address, *, policy: Policy, timeout: float) -> None:
        self._timeout = timeout
        self._socket = connect(address, timeout=timeout)
        try:
            self._open(policy)
        except BaseException:
            self._socket.close()
            raise
        self._frames = FrameReader(self._socket, limit=RECORD_FRAME_BYTES)
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._reading = False
        self._confirmed = False
        self._failure: EphemeralMLError | None = None
        self._answers: dict[int, Response | Refusal] = {}
        self._waiting: set[int] = set()
        self._abandoned: set[int] = set()
        self._next_id = 0
        self._previous: bytes | None = None

    def _open(self, policy: Policy) -> None:
        handshake = ClientHandshake()
        write_all(self._socket, handshake.hello())
        kind, body = read_frame(self._socket, limit=HANDSHAKE_FRAME_BYTES)
        if kind is FrameType.ALERT:
            raise _alerted(body)
        if kind is not FrameType.EVIDENCE:
            raise SessionError(f"the enclave sent {kind.name} where its evidence is due", code="handshake.order")
        self.attested: Attested
        self.attested, self._keys, opening = handshake.receive_evidence(body, policy=policy, at=now())
        # The key confirmation comes with the first answer: waiting for it here would cost a round trip.
        write_all(self._socket, opening)
        self._sealer = Sealer(self._keys.client_to_enclave, self._keys.session_id)
        self._opener = Opener(self._keys.enclave_to_client, self._keys.session_id)

    @property
    def ended(self) -> bool:
        """Whether this connection can carry no further request."""
        return self._failure is not None

    def embed(self, texts: tuple[str, ...]) -> EmbedResult:
        """Ask once. Raises `SessionEndedError` when a new connection may be asked again, else as `Client.embed`."""
        with self._state:
            previous = self._previous
        asked = EmbedRequest(texts, os.urandom(NONCE_BYTES), os.urandom(SALT_BYTES), previous)
        body = asked.to_bytes()
        answer = self._exchange(body)
        receipt = verify_receipt(
            answer.receipt,
            public_key=self.attested.receipt_key,
            policy=ReceiptPolicy(
                expected_nonce=asked.nonce,
                expected_model_hash=self.attested.manifest.digest,
                expected_platform="nitro-pcr",
                max_age_secs=_CLOCK_SKEW_SECONDS,
            ),
        )
        evidence, claims = self.attested.evidence, receipt.claims
        check_evidence(claims, self.attested.verdict, self.attested.manifest)
        if claims.request_hash != sha256(body).digest() or claims.response_hash != sha256(answer.body).digest():
            raise SessionError("the receipt is not for this request and its answer", code="receipt.binding")
        response = EmbedResponse.from_bytes(answer.body)
        if len(response.vectors) != len(texts):
            raise SessionError("the answer does not hold one vector for each text", code="response.count")
        with self._state:
            self._previous = receipt.sha256
        return EmbedResult(
            vectors=response.vectors,
            tokens=response.tokens,
            receipt=receipt,
            verdict=self.attested.verdict,
            bundle=Bundle(receipt=answer.receipt, document=evidence.document, manifest=evidence.manifest),
            request=body,
            response=answer.body,
        )

    def close(self) -> None:
        """Tell the enclave, and hang up. Never raises."""
        closed = TransportError("the client was closed before the answer came", code="session.closed")
        try:
            with self._sending:
                # Said first: the enclave hangs up on CLOSE, and that must not look like a lost connection.
                with self._state:
                    alive = self._failure is None
                    self._failure = self._failure or closed
                if alive:
                    notice = Notice("closed", "the client is done").to_bytes()
                    write_all(self._socket, self._sealer.seal(FrameType.CLOSE, notice))
        except EphemeralMLError:
            pass
        finally:
            self._fail(closed)

    def _exchange(self, body: bytes) -> Response:
        with self._state:
            identifier = self._next_id
            self._next_id = (self._next_id + 1) % 2**32
        message = Request(identifier, body).to_bytes()
        if len(message) > MAX_REQUEST:
            raise RequestError("the texts are too large for one request; send fewer at a time", code="request.size")
        with self._state:
            self._waiting.add(identifier)
        try:
            with self._sending:
                if self._failure is not None:
                    raise self._failure
                write_all(self._socket, self._sealer.seal(FrameType.REQUEST, message))
            answer = self._wait(identifier)
        except _UnansweredError:
            raise
        except EphemeralMLError as error:
            first = self._fail(error)
            if first.code == "transport.closed":
                # A broken transport is worth one new session; a violation, a refusal or a timeout is not.
                raise SessionEndedError(str(first), code="session.lost") from first
            if first is not error:
                raise first from None
            raise
        except BaseException:
            # Interrupted, perhaps in the middle of a frame: neither direction can go on.
            self._fail(SessionEndedError("a request was interrupted", code="session.interrupted"))
            raise
        finally:
            with self._state:
                self._waiting.discard(identifier)
                self._answers.pop(identifier, None)
        if isinstance(answer, Response):
            return answer
        if answer.retry_after_ms is not None:
            raise BusyError(f"the enclave is busy: {answer.message}", retry_after=answer.retry_after_ms / 1000)
        raise RequestError(f"the enclave refuses the request: {answer.message}", code=answer.code)

    def _wait(self, identifier: int) -> Response | Refusal:
        asked = time.monotonic()
        deadline = asked + self._timeout
        while True:
            with self._state:
                if identifier in self._answers:
                    return self._answers[identifier]
                if self._failure is not None:
                    raise self._failure
                left = deadline - time.monotonic()
                if left <= 0:
                    self._abandon(identifier, asked)
                if self._reading:
                    self._state.wait(left)
                    continue
                self._reading = True
            try:
                self._read_one(deadline)
            finally:
                with self._state:
                    self._reading = False
                    if self.ended:
                        self._socket.close()
                    self._state.notify_all()

    def _abandon(self, identifier: int, asked: float) -> NoReturn:
        """Give one request up; its answer will be dropped should it come."""
        self._abandoned.add(identifier)
        # A connection that is silent, or that keeps back one answer after the other, is of no use to anybody.
        if self._frames.heard < asked or len(self._abandoned) > _MAX_ABANDONED:
            raise TransportError("the enclave did not answer in time", code="transport.timeout")
        raise _UnansweredError("the enclave did not answer this request in time", code="transport.timeout")

    def _read_one(self, deadline: float) -> None:
        try:
            try:
                kind, body = self._frames.read(deadline=deadline)
            except TimeoutError:
                return
            if kind is FrameType.ALERT:
                raise _alerted(body)
            if not self._confirmed:
                if kind is not FrameType.ACCEPT:
                    raise SessionError(f"the enclave sent {kind.name} where ACCEPT is due", code="handshake.order")
                check_accept(body, self._keys)
                self._confirmed = True
                return
            self._deliver(kind, self._opener.open(kind, body))
        except EphemeralMLError as error:
            self._fail(error)
            raise

    def _deliver(self, kind: FrameType, plaintext: bytes) -> None:
        answer: Response | Refusal
        if kind is FrameType.RESPONSE:
            answer = Response.from_bytes(plaintext)
        elif kind is FrameType.REFUSAL:
            answer = Refusal.from_bytes(plaintext)
        elif kind is FrameType.CLOSE:
            notice = Notice.from_bytes(plaintext)
            if notice.code == "busy":
                raise BusyError(f"the enclave is busy: {notice.message}")
            raise SessionEndedError(f"the enclave ended the session: {notice.message}", code=f"session.{notice.code}")
        else:
            raise SessionError(f"the enclave sent {kind.name} where an answer is due", code="session.order")
        with self._state:
            if answer.id in self._abandoned:
                self._abandoned.remove(answer.id)
                return
            if answer.id not in self._waiting:
                raise SessionError("the enclave answered what was not asked", code="session.order")
            self._answers[answer.id] = answer

    def _fail(self, error: EphemeralMLError) -> EphemeralMLError:
        """End the connection; returns what ended it first, of which `error` may be a consequence."""
        with self._state:
            if self._failure is None:
                self._failure = error
            first = self._failure
            self._state.notify_all()
            # Wakes a reader, who then closes: its descriptor's number must not become another's while it waits.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._reading:
                self._socket.close()
        return first


def _alerted(body: bytes) -> EphemeralMLError:
    notice = Notice.from_bytes(body)
    said = f"the host or the enclave says: {notice.message}"
    if notice.code in {"busy", "unavailable"}:
        return BusyError(said, code=notice.code)
    return SessionError(said, code=f"alert.{notice.code}")
