"""What one session asks for: each request checked, embedded, answered with a receipt; counted until that went out."""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from sys import getsizeof
from typing import NoReturn

from ephemeralml.enclave.budget import Budget
from ephemeralml.enclave.framing import FrameProtocol, call_soon_from_thread
from ephemeralml.enclave.tally import Tally
from ephemeralml.errors import BusyError, EphemeralMLError, RequestError
from ephemeralml.inference import Embedded
from ephemeralml.session.frames import FrameType
from ephemeralml.session.limits import Limits
from ephemeralml.session.messages import SALT_BYTES, EmbedRequest, EmbedResponse, Refusal, Request, Response
from ephemeralml.session.records import Sealer

# A request names the receipt before it; that one is among the last few issued, or the chain is broken.
_RECEIPTS_REMEMBERED = 256
# Room in an answer's record beside the vectors: receipt, salt, counts.
_ANSWER_OVERHEAD = 4096

Embed = Callable[[tuple[str, ...]], Future[Embedded]]
Issue = Callable[..., bytes]


@dataclass(slots=True, eq=False)
class _Asked:
    """A request in work since so many seconds (of `perf_counter`), and the bytes it counts for."""

    request: Request
    held: int
    since: float
    nonce: bytes = b""
    future: Future[Embedded] | None = field(default=None, repr=False)


class Requests:
    """Answers a session's requests, many at a time and in any order, as records of `sealer` on `stream`.

    One that cannot be answered is refused, and the session goes on. `document` is the evidence that receipts name.
    """

    def __init__(
        self,
        *,
        stream: FrameProtocol,
        sealer: Sealer,
        document: bytes,
        limits: Limits,
        budget: Budget,
        tally: Tally,
        dimension: int,
        embed: Embed,
        issue: Issue,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._sealer = sealer
        self._document = document
        self._limits = limits
        self._budget = budget
        self._tally = tally
        self._dimension = dimension
        self._embed = embed
        self._issue = issue
        self._asked: set[_Asked] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._issued: OrderedDict[bytes, None] = OrderedDict()
        self._sequence = 0
        self.released = 0.0
        """When the last answer went out, by the loop's clock."""

    @property
    def in_work(self) -> int:
        """Requests whose answer has not gone out."""
        return len(self._asked)

    async def answered(self, *, seconds: float) -> None:
        """Wait until nothing is in work, so many seconds at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def cancel(self) -> None:
        """The stream is gone: nothing of what is in work will be answered."""
        for asked in list(self._asked):
            if asked.future is None:
                self._release(asked)
            else:
                asked.future.cancel()

    def take(self, request: Request) -> None:
        """Answer it when it is embedded, or refuse it."""
        asked = _Asked(request, 0, time.perf_counter())
        # A request counts until its answer went out, refused ones included: a client that reads nothing keeps them all.
        self._asked.add(asked)
        self._tally.in_work += 1
        self._idle.clear()
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
        if self._stream.ending:
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
        except Exception:  # noqa: BLE001
            self._refuse(asked, RequestError("the enclave failed on this request", code="internal"))
        else:
            self._stream.send(record, sent=lambda: self._release(asked))
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
        self._stream.send(self._sealer.seal(FrameType.REFUSAL, refusal), sent=lambda: self._release(asked))

    def _release(self, asked: _Asked) -> None:
        if asked in self._asked:
            self._asked.discard(asked)
            self._tally.in_work -= 1
        # The future holds this by its callback: both would wait for the garbage collector, texts and vectors with them.
        asked.future = None
        self.released = self._loop.time()
        self._budget.give(asked.held)
        asked.held = 0
        if not self._asked:
            self._idle.set()

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


def _refuse(code: str, message: str) -> NoReturn:
    raise RequestError(message, code=code)
