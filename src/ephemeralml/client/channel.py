"""One sealed session's socket, shared by threads: whoever waits for an answer reads for all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import NoReturn

from ephemeralml.errors import BusyError, EphemeralMLError, RequestError, SessionError, TransportError
from ephemeralml.session.blocking import FrameReader, write_all
from ephemeralml.session.frames import FrameType
from ephemeralml.session.handshake import check_accept
from ephemeralml.session.keys import SessionKeys
from ephemeralml.session.limits import RECORD_FRAME_BYTES
from ephemeralml.session.messages import Notice, Refusal, Request, Response
from ephemeralml.session.records import MAX_REQUEST, Opener, Sealer

# Requests given up on whose answers may still come, as many as an enclave works on for one session.
_MAX_ABANDONED = 32
# What `close` gives a writer in its way before it hangs up without a word.
_GOODBYE_SECONDS = 1.0


class SessionEndedError(TransportError):
    """The session ended without an answer and without a violation; a new one may be opened and asked again."""


class _UnansweredError(TransportError):
    """One request was not answered in time, on a connection that goes on."""


class Channel:
    """Numbered requests out, their answers in, over `connection` once the handshake's OPEN went out.

    A peer that says nothing for `patience` seconds while an answer is due is given up.
    """

    def __init__(self, connection: socket.socket, frames: FrameReader, keys: SessionKeys, *, patience: float) -> None:
        self._patience = patience
        self._socket = connection
        self._frames = frames
        self._keys = keys
        self._sealer = Sealer(keys.client_to_enclave, keys.session_id)
        self._opener = Opener(keys.enclave_to_client, keys.session_id)
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._reading = False
        self._writing = False
        self._confirmed = False
        self._failure: EphemeralMLError | None = None
        self._answers: dict[int, Response | Refusal] = {}
        # Since when each answer is due.
        self._waiting: dict[int, float] = {}
        self._abandoned: dict[int, float] = {}
        self._next_id = 0
        self._previous: bytes | None = None

    @property
    def ended(self) -> bool:
        """Whether this channel can carry no further request."""
        return self._failure is not None

    def ask(self, body: Callable[[bytes | None], bytes], *, deadline: float) -> tuple[bytes, Response]:
        """Send the body made for the hash of the receipt before it; returns the body and its answer.

        Raises `SessionEndedError` when a new session may be asked again, `BusyError` or `RequestError` for a refusal,
        `TransportError` when `deadline` (monotonic) passes, `SessionError` for a violation.
        """
        with self._state:
            identifier = self._next_id
            self._next_id = (self._next_id + 1) % 2**32
            self._waiting[identifier] = time.monotonic()
        try:
            asked = self._send(identifier, body, deadline)
            answer = self._wait(identifier, deadline)
        except (_UnansweredError, RequestError):
            raise
        except EphemeralMLError as error:
            first = self._fail(error)
            if first.code == "transport.closed" or (first.code == "transport.timeout" and first is not error):
                # A broken transport, or another's time that ran out, is worth one new session; a violation, a refusal
                # or one's own time is not.
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
                self._waiting.pop(identifier, None)
                self._answers.pop(identifier, None)
        if isinstance(answer, Refusal):
            self._refused(answer)
        return asked, answer

    def close(self) -> None:
        """Tell the enclave, if nobody is in the way, and hang up. Never raises."""
        closed = TransportError("the client was closed before the answer came", code="session.closed")
        free = self._sending.acquire(timeout=_GOODBYE_SECONDS)
        try:
            # Said first: the enclave hangs up on CLOSE, and that must not look like a lost connection.
            with self._state:
                alive = self._failure is None
                self._failure = self._failure or closed
            if alive and free:
                notice = Notice("closed", "the client is done").to_bytes()
                with suppress(EphemeralMLError):
                    self._write(self._sealer.seal(FrameType.CLOSE, notice), time.monotonic() + _GOODBYE_SECONDS)
        finally:
            if free:
                self._sending.release()
            self._fail(closed)

    def _refused(self, refusal: Refusal) -> NoReturn:
        if refusal.retry_after_ms is not None:
            raise BusyError(f"the enclave is busy: {refusal.message}", retry_after=refusal.retry_after_ms / 1000)
        if refusal.code == "request.chain":
            # Too many answers went by since the last receipt that both ends know: no later request would do better.
            raise self._fail(SessionEndedError("the enclave lost track of the receipts", code="session.chain"))
        raise RequestError(f"the enclave refuses the request: {refusal.message}", code=refusal.code)

    # Writing.

    def _send(self, identifier: int, body: Callable[[bytes | None], bytes], deadline: float) -> bytes:
        if not self._sending.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _UnansweredError("other requests took all the time to be sent", code="transport.timeout")
        try:
            with self._state:
                if self._failure is not None:
                    raise self._failure
                previous = self._previous
            asked = body(previous)
            message = Request(identifier, asked).to_bytes()
            if len(message) > MAX_REQUEST:
                raise RequestError("the texts are too large for one request; send fewer at a time", code="request.size")
            self._write(self._sealer.seal(FrameType.REQUEST, message), deadline)
            return asked
        finally:
            self._sending.release()

    def _write(self, frame: bytes, deadline: float) -> None:
        with self._state:
            self._writing = True
        try:
            write_all(self._socket, frame, deadline=deadline)
        finally:
            with self._state:
                self._writing = False
                self._hang_up_when_left()

    # Reading.

    def _wait(self, identifier: int, deadline: float) -> Response | Refusal:
        while True:
            with self._state:
                if identifier in self._answers:
                    return self._answers[identifier]
                if self._failure is not None:
                    raise self._failure
                left = deadline - time.monotonic()
                if left <= 0:
                    self._abandon(identifier)
                if self._reading:
                    self._state.wait(left)
                    continue
                self._reading = True
            try:
                self._read_one(deadline)
            finally:
                with self._state:
                    self._reading = False
                    self._hang_up_when_left()
                    self._state.notify_all()

    def _abandon(self, identifier: int) -> NoReturn:
        """Give one request up; its answer will be dropped should it come."""
        oldest = min((*self._waiting.values(), *self._abandoned.values()))
        self._abandoned[identifier] = self._waiting[identifier]
        silent = time.monotonic() - max(self._frames.heard, oldest)
        # A connection that is silent, or that keeps back one answer after the other, is of no use to anybody.
        if silent >= self._patience or len(self._abandoned) > _MAX_ABANDONED:
            raise TransportError("the enclave did not answer in time", code="transport.timeout")
        raise _UnansweredError("the enclave did not answer this request in time", code="transport.timeout")

    def _read_one(self, deadline: float) -> None:
        try:
            try:
                kind, body = self._frames.read(limit=RECORD_FRAME_BYTES, deadline=deadline)
            except TimeoutError:
                return
            if kind is FrameType.ALERT:
                error = alerted(body)
                # Told so in its handshake, of which our OPEN and requests were a part: nothing of them was answered.
                if error.code == "unavailable":
                    raise SessionEndedError(str(error), code="session.unavailable")
                raise error
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
            if answer.id not in self._waiting and answer.id not in self._abandoned:
                raise SessionError("the enclave answered what was not asked", code="session.order")
            # Of every receipt, awaited or not: the enclave knows the latest ones only.
            if isinstance(answer, Response):
                self._previous = sha256(answer.receipt).digest()
            if answer.id in self._abandoned:
                del self._abandoned[answer.id]
            else:
                self._answers[answer.id] = answer

    # Ending.

    def _fail(self, error: EphemeralMLError) -> EphemeralMLError:
        """End the channel; returns what ended it first, of which `error` may be a consequence."""
        with self._state:
            if self._failure is None:
                self._failure = error
            first = self._failure
            self._state.notify_all()
            # Wakes whoever reads or writes.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._hang_up_when_left()
        return first

    def _hang_up_when_left(self) -> None:
        """Close once nobody uses the socket: its descriptor's number must not become another's meanwhile."""
        if self._failure is not None and not self._reading and not self._writing:
            self._socket.close()


def alerted(body: bytes) -> EphemeralMLError:
    """The error for an ALERT frame, which anybody on the path can have sent."""
    notice = Notice.from_bytes(body)
    said = f"the host or the enclave says: {notice.message}"
    if notice.code in {"busy", "unavailable"}:
        return BusyError(said, code=notice.code)
    return SessionError(said, code=f"alert.{notice.code}")
