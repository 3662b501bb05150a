"""One client's connection: handshake, then sealed requests, many at a time, until it ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import sha256
from sys import getsizeof
from typing import NoReturn

from ephemeralml.enclave.budget import Budget
from ephemeralml.enclave.framing import FrameProtocol, call_soon_from_thread
from ephemeralml.enclave.tally import Tally
from ephemeralml.errors import BusyError, EphemeralMLError, RequestError, SessionError
from ephemeralml.inference import Embedded
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.limits import DRAIN_SECONDS, HANDSHAKE_FRAME_BYTES, REQUEST_BYTES, Limits
from ephemeralml.session.messages import SALT_BYTES, EmbedRequest, EmbedResponse, Notice, Refusal, Request, Response
from ephemeralml.session.records import TAG_BYTES, Opener, Sealer

# A request names the receipt before it; that one is among the last few issued, or the chain is broken.
_RECEIPTS_REMEMBERED = 256
# Room in an answer's record beside the vectors: receipt, salt, counts.
_ANSWER_OVERHEAD = 4096
# What a client gets to take the end of a drained session and hang up.
_GOODBYE_SECONDS = 1

Embed = Callable[[tuple[str, ...]], Future[Embedded]]
Issue = Callable[..., bytes]
ShowEvidence = Callable[[EnclaveHandshake, bytes], Awaitable[tuple[bytes, bytes]]]


@dataclass(slots=True, eq=False)
class _Asked:
    """A request in work since so many seconds (of `perf_counter`), and the bytes it counts for."""

    request: Request
    held: int
    since: float
    nonce: bytes = b""
    future: Future[Embedded] | None = field(default=None, repr=False)


class Connection(FrameProtocol):
    """Serves one stream. `embed` and `issue` are the enclave's; everything else is this session's own.

    Whatever a client does ends its own connection and nothing else.
    """

    def __init__(
        self,
        *,
        buffer: memoryview,
        limits: Limits,
        budget: Budget,
        tally: Tally,
        dimension: int,
        handshake: EnclaveHandshake,
        show_evidence: ShowEvidence,
        embed: Embed,
        issue: Issue,
    ) -> None:
        super().__init__(buffer=buffer, frame_seconds=limits.frame_seconds)
        self._limits = limits
        self._budget = Budget(limits.session_bytes, budget)
        self._tally = tally
        self._dimension = dimension
        self._handshake = handshake
        self._show_evidence = show_evidence
        self._embed = embed
        self._issue = issue
        # None once the session is up.
        self._expected: FrameType | None = FrameType.HELLO
        self._showing: asyncio.Task[None] | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._lifetime: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._busy: BusyError | None = None
        self._reading_bytes = 0
        self._asked: set[_Asked] = set()
        self._issued: OrderedDict[bytes, None] = OrderedDict()
        self._sequence = 0
        # Once no further request is taken: done when all that were are answered.
        self._answered: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._sealer: Sealer
        self._opener: Opener
        self._document = b""

    # Limits in time.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Nothing was promised yet: a handshake that takes too long ends without a word.
        self._clock = self._loop.call_later(self._limits.handshake_seconds, self.end)

    def _session_is_up(self) -> None:
        self._expected = None
        self._tally.sessions += 1
        self._tally.sessions_open += 1
        self._cancel(self._clock)
        self._heard = self._loop.time()
        self._clock = self._loop.call_later(self._limits.idle_seconds, self._check_idle)
        self._lifetime = self._loop.call_later(
            self._limits.lifetime_seconds, self._close, "lifetime", "the session reached its lifetime"
        )

    def _check_idle(self) -> None:
        now = self._loop.time()
        if self._asked or self.in_frame:
            self._heard = now
        left = self._heard + self._limits.idle_seconds - now
        if left > 0:
            self._clock = self._loop.call_later(left, self._check_idle)
        else:
            self._close("idle", "nothing was asked for too long")

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._expected is None:
            self._tally.sessions_open -= 1
        for timer in (self._clock, self._lifetime):
            self._cancel(timer)
        if self._showing is not None:
            self._showing.cancel()
        self._let_go()
        for asked in list(self._asked):
            if asked.future is None:
                self._release(asked)
            else:
                asked.future.cancel()
        self._gone.set_result(None)

    # Frames.

    def frame_limit(self) -> int:
        return HANDSHAKE_FRAME_BYTES if self._expected else REQUEST_BYTES + TAG_BYTES

    def header_received(self, kind: FrameType) -> None:
        if self._expected is not None:
            if kind is not self._expected:
                message = f"the client sent {kind.name} where {self._expected.name} is due"
                raise SessionError(message, code="handshake.order")
        elif kind not in {FrameType.REQUEST, FrameType.CLOSE}:
            raise SessionError(f"the client sent {kind.name} where a request is due", code="session.order")

    def body_received(self, size: int) -> bool:
        # Read on all the same when busy or drained: closing on unread bytes could take our last words away.
        if self._answered is not None:
            return False
        if self._expected is None and self._busy is None:
            try:
                # Counted as it comes: what is announced and never sent takes nothing from the others.
                self._budget.take(size)
                self._reading_bytes += size
            except BusyError as error:
                self._busy = error
        return self._busy is None

    def frame_received(self, kind: FrameType, body: bytes) -> None:
        self._heard = self._loop.time()
        if self._answered is not None:
            return
        match self._expected:
            case FrameType.HELLO:
                nonce = self._handshake.receive_hello(body)
                self._expected = FrameType.OPEN
                self.hold()
                self._showing = self._loop.create_task(self._show(nonce))
            case FrameType.OPEN:
                keys, accept = self._handshake.receive_open(body)
                self._opener = Opener(keys.client_to_enclave, keys.session_id)
                self._sealer = Sealer(keys.enclave_to_client, keys.session_id)
                self.send(accept)
                self._session_is_up()
            case _:
                self._record_received(kind, body)

    def failed(self, error: EphemeralMLError) -> None:
        self.send(alert(error.code, str(error)))

    async def _show(self, nonce: bytes) -> None:
        try:
            evidence, self._document = await self._show_evidence(self._handshake, nonce)
        except EphemeralMLError as error:
            self.failed(error)
            self.end()
            return
        self.send(evidence)
        self.go_on()

    def _record_received(self, kind: FrameType, body: bytes) -> None:
        self._let_go()
        if self._busy is not None:
            self._tally.refused(self._busy.code)
            self._close("busy", str(self._busy))
            return
        plaintext = self._opener.open(kind, body)
        if kind is FrameType.CLOSE:
            self._close("closed", "the client closed the session")
        else:
            self._request_received(Request.from_bytes(plaintext))

    def _let_go(self) -> None:
        self._budget.give(self._reading_bytes)
        self._reading_bytes = 0

    # Requests.

    def _request_received(self, request: Request) -> None:
        asked = _Asked(request, 0, time.perf_counter())
        # A request counts until its answer went out, refused ones included: a client that reads nothing keeps them all.
        self._asked.add(asked)
        self._tally.in_work += 1
        try:
            if len(self._asked) > self._limits.requests_in_flight:
                raise BusyError("this session has as many requests in flight as it may")
            self._hold(asked, len(request.body))
            question = self._checked(request.body)
            asked.nonce = question.nonce
            # As text they may take four times the bytes they came in.
            self._hold(asked, sum(map(getsizeof, question.texts)))
            self._hold(asked, 2 * (4 * len(question.texts) * self._dimension + _ANSWER_OVERHEAD))
            asked.future = self._embed(question.texts)
        except EphemeralMLError as error:
            self._refuse(asked, error)
            return
        # The engine's thread calls back; a future that was cancelled does so too.
        asked.future.add_done_callback(lambda _: call_soon_from_thread(self._loop, lambda: self._answer(asked)))

    def _hold(self, asked: _Asked, size: int) -> None:
        self._budget.take(size)
        asked.held += size

    def _answer(self, asked: _Asked) -> None:
        if self.ending:
            self._release(asked)
            return
        try:
            assert asked.future is not None, "only what was submitted is answered"
            embedded = asked.future.result()
            answer = EmbedResponse(embedded.vectors, embedded.tokens, os.urandom(SALT_BYTES)).to_bytes()
            receipt = self._receipt(asked, answer, embedded.execution_ms)
            record = self._sealer.seal(FrameType.RESPONSE, Response(asked.request.id, answer, receipt).to_bytes())
        except EphemeralMLError as error:
            self._refuse(asked, error)
        # What failed may have a text in it: the client learns the code, nobody the rest.
        except Exception:
            self._refuse(asked, RequestError("the enclave failed on this request", code="internal"))
        else:
            self.send(record, sent=lambda: self._release(asked))
            self._count(asked, embedded)

    def _count(self, asked: _Asked, embedded: Embedded) -> None:
        for stage, milliseconds in (
            ("queue", embedded.queue_ms),
            ("engine", embedded.execution_ms),
            ("request", (time.perf_counter() - asked.since) * 1000),
        ):
            self._tally.took(stage, milliseconds)

    def _refuse(self, asked: _Asked, error: EphemeralMLError) -> None:
        self._tally.refused(error.code)
        retry = round(error.retry_after * 1000) if isinstance(error, BusyError) else None
        refusal = Refusal(asked.request.id, error.code, str(error), retry).to_bytes()
        self.send(self._sealer.seal(FrameType.REFUSAL, refusal), sent=lambda: self._release(asked))

    def _release(self, asked: _Asked) -> None:
        if asked in self._asked:
            self._asked.discard(asked)
            self._tally.in_work -= 1
        # The future holds this by its callback: both would wait for the garbage collector, texts and vectors with them.
        asked.future = None
        self._heard = self._loop.time()
        self._budget.give(asked.held)
        asked.held = 0
        if self._answered is not None and not self._asked and not self._answered.done():
            self._answered.set_result(None)

    def _checked(self, body: bytes) -> EmbedRequest:
        limits = self._limits
        if len(body) > limits.request_bytes:
            _refuse("request.size", f"a request of {len(body)} bytes, {limits.request_bytes} are allowed")
        request = EmbedRequest.from_bytes(body)
        if len(request.texts) > limits.texts_per_request:
            _refuse(
                "request.texts", f"{len(request.texts)} texts in one request, {limits.texts_per_request} are allowed"
            )
        if any(len(text.encode()) > limits.text_bytes for text in request.texts):
            _refuse("request.text_bytes", f"a text is longer than {limits.text_bytes} bytes")
        if request.previous is not None and request.previous not in self._issued:
            _refuse("request.chain", "the request names a receipt that this session did not issue")
        return request

    def _receipt(self, asked: _Asked, answer: bytes, execution_ms: float) -> bytes:
        receipt = self._issue(
            document=self._document,
            request=asked.request.body,
            response=answer,
            nonce=asked.nonce,
            sequence_number=self._sequence,
            execution_ms=execution_ms,
        )
        self._sequence += 1
        self._issued[sha256(receipt).digest()] = None
        if len(self._issued) > _RECEIPTS_REMEMBERED:
            self._issued.popitem(last=False)
        return receipt

    # Ending.

    async def drain(self) -> None:
        """Take no further request, answer those in work, say that this is the end, and wait for the client to leave.

        What is not answered within `DRAIN_SECONDS` stays unanswered. A handshake is told to try again.
        """
        if self._expected is not None:
            self._fail(unavailable())
        else:
            self._let_go()
            self._answered = self._loop.create_future()
            if self._asked:
                await asyncio.wait({self._answered}, timeout=DRAIN_SECONDS)
            if not self.ending:
                self._close("restart", "the enclave is being stopped or replaced")
        await asyncio.wait({self._gone}, timeout=_GOODBYE_SECONDS)

    def _close(self, code: str, message: str) -> None:
        """End the session, for a reason that the client is told inside a record."""
        self.send(self._sealer.seal(FrameType.CLOSE, Notice(code, message).to_bytes()))
        self.end()

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def unavailable() -> BusyError:
    """What a client is told that comes, or is in its handshake, when the enclave is told to stop."""
    return BusyError("the enclave is being stopped or replaced; connect again", code="unavailable")


def alert(code: str, message: str) -> bytes:
    """A plaintext ALERT frame."""
    return encode_frame(FrameType.ALERT, Notice(code, message).to_bytes())


def _refuse(code: str, message: str) -> NoReturn:
    raise RequestError(message, code=code)
