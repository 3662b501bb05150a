"""One client's connection: handshake, then sealed requests, many at a time, until it ends."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import NoReturn

from ephemeralml.enclave.budget import Budget
from ephemeralml.errors import BusyError, EphemeralMLError, RequestError, SessionError
from ephemeralml.inference import Embedded
from ephemeralml.session.frames import HEADER, FrameType, decode_header, encode_frame
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES, REQUEST_BYTES, WRITE_BYTES, Limits
from ephemeralml.session.messages import SALT_BYTES, EmbedRequest, EmbedResponse, Notice, Refusal, Request, Response
from ephemeralml.session.records import TAG_BYTES, Opener, Sealer

# A request names the receipt before it; that one is among the last few issued, or the chain is broken.
_RECEIPTS_REMEMBERED = 256
# Room in an answer's record beside the vectors: receipt, salt, counts.
_ANSWER_OVERHEAD = 4096

Embed = Callable[[tuple[str, ...]], Awaitable[Embedded]]
Issue = Callable[..., bytes]
Handshake = Callable[[EnclaveHandshake, bytes], Awaitable[tuple[bytes, bytes]]]


class Connection:
    """Serves one stream. `embed` and `issue` are the enclave's; everything else is this session's own."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        limits: Limits,
        budget: Budget,
        dimension: int,
        embed: Embed,
        issue: Issue,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._budget = Budget(limits.session_bytes, budget)
        self._dimension = dimension
        self._embed = embed
        self._issue = issue
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._issued: OrderedDict[bytes, None] = OrderedDict()
        self._sequence = 0
        self._sealer: Sealer
        self._opener: Opener
        self._document = b""

    async def handshake(self, handshake: EnclaveHandshake, show_evidence: Handshake) -> None:
        """Raises `SessionError`, `IncompleteReadError`, `OSError` or `TimeoutError`: nothing was promised yet."""
        async with asyncio.timeout(self._limits.handshake_seconds):
            nonce = handshake.receive_hello(await self._handshake_frame(FrameType.HELLO))
            evidence, self._document = await show_evidence(handshake, nonce)
            await self._write(evidence)
            keys, accept = handshake.receive_open(await self._handshake_frame(FrameType.OPEN))
            self._opener = Opener(keys.client_to_enclave, keys.session_id)
            self._sealer = Sealer(keys.enclave_to_client, keys.session_id)
            await self._write(accept)

    async def serve(self) -> None:
        """Answer requests until the client leaves, a limit ends the session, or a record does not open."""
        try:
            async with asyncio.timeout(self._limits.lifetime_seconds):
                while True:
                    await self._receive()
        except _Ended as end:
            await self._close(end.code, end.message)
        except TimeoutError:
            await self._close("lifetime", "the session reached its lifetime")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handshake_frame(self, expected: FrameType) -> bytes:
        kind, length = decode_header(await self._reader.readexactly(HEADER.size), limit=HANDSHAKE_FRAME_BYTES)
        if kind is not expected:
            raise SessionError(f"the client sent {kind.name} where {expected.name} is due", code="handshake.order")
        return await self._reader.readexactly(length)

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                header = await self._reader.readexactly(HEADER.size)
        except TimeoutError:
            if self._tasks:
                return
            raise _Ended("idle", "nothing was asked for too long") from None
        kind, length = decode_header(header, limit=REQUEST_BYTES + TAG_BYTES)
        if kind not in {FrameType.REQUEST, FrameType.CLOSE}:
            raise SessionError(f"the client sent {kind.name} where a request is due", code="session.order")
        plaintext = self._opener.open(kind, await self._body(length))
        if kind is FrameType.CLOSE:
            raise _Ended("closed", "the client closed the session")
        request = Request.from_bytes(plaintext)
        size = len(request.body)
        try:
            if len(self._tasks) >= self._limits.requests_in_flight:
                raise BusyError("this session has as many requests in flight as it may")
            self._budget.take(size)
        except BusyError as busy:
            await self._refuse(request.id, busy)
            return
        task = asyncio.create_task(self._answer(request))
        self._tasks.add(task)
        # A request counts until its task is gone, refused ones included: a client that reads nothing keeps them all.
        task.add_done_callback(partial(self._answered, size))

    def _answered(self, size: int, task: asyncio.Task[None]) -> None:
        self._budget.give(size)
        self._tasks.discard(task)

    async def _body(self, length: int) -> bytes:
        body, left = bytearray(), length
        busy: BusyError | None = None
        try:
            async with asyncio.timeout(self._limits.frame_seconds):
                while left:
                    chunk = await self._reader.read(min(left, WRITE_BYTES))
                    if not chunk:
                        raise asyncio.IncompleteReadError(b"", left)
                    left -= len(chunk)
                    # Read on all the same: closing on unread bytes could take our last words away.
                    if busy is not None:
                        continue
                    try:
                        # Counted as it comes: what is announced and never sent takes nothing from the others.
                        self._budget.take(len(chunk))
                        body += chunk
                    except BusyError as error:
                        busy = error
        except TimeoutError:
            raise SessionError("the client delivers a frame too slowly", code="session.slow") from None
        finally:
            self._budget.give(len(body))
        if busy is not None:
            raise _Ended("busy", str(busy)) from busy
        return bytes(body)

    async def _answer(self, request: Request) -> None:
        try:
            asked = self._checked(request.body)
            size = 4 * len(asked.texts) * self._dimension + _ANSWER_OVERHEAD
            with self._budget.hold(2 * size):
                embedded = await self._embed(asked.texts)
                answer = EmbedResponse(embedded.vectors, embedded.tokens, os.urandom(SALT_BYTES)).to_bytes()
                receipt = self._receipt(request.body, answer, asked.nonce, embedded.execution_ms)
                await self._send(FrameType.RESPONSE, Response(request.id, answer, receipt).to_bytes())
        except (OSError, TimeoutError):
            self._writer.transport.abort()
        except EphemeralMLError as error:
            await self._refuse(request.id, error)
        # What failed may have a text in it: the client learns the code, nobody the rest.
        except Exception:
            await self._refuse(request.id, RequestError("the enclave failed on this request", code="internal"))

    async def _refuse(self, identifier: int, error: EphemeralMLError) -> None:
        try:
            await self._send(FrameType.REFUSAL, _refusal(identifier, error))
        except (OSError, TimeoutError):
            self._writer.transport.abort()

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

    def _receipt(self, request: bytes, response: bytes, nonce: bytes, execution_ms: float) -> bytes:
        receipt = self._issue(
            document=self._document,
            request=request,
            response=response,
            nonce=nonce,
            sequence_number=self._sequence,
            execution_ms=execution_ms,
        )
        self._sequence += 1
        self._issued[sha256(receipt).digest()] = None
        if len(self._issued) > _RECEIPTS_REMEMBERED:
            self._issued.popitem(last=False)
        return receipt

    async def _send(self, kind: FrameType, plaintext: bytes) -> None:
        # The counter is in the seal: what is sealed first must be written first.
        async with self._writing:
            await self._write(self._sealer.seal(kind, plaintext))

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        async with asyncio.timeout(self._limits.frame_seconds):
            for start in range(0, len(view), WRITE_BYTES):
                self._writer.write(view[start : start + WRITE_BYTES])
                await self._writer.drain()

    async def _close(self, code: str, message: str) -> None:
        try:
            await self._send(FrameType.CLOSE, Notice(code, message).to_bytes())
        except (OSError, TimeoutError):
            return


class _Ended(Exception):  # noqa: N818
    """The session ends, for a reason that the client is told inside a record."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def alert(code: str, message: str) -> bytes:
    """A plaintext ALERT frame."""
    return encode_frame(FrameType.ALERT, Notice(code, message).to_bytes())


def _refuse(code: str, message: str) -> NoReturn:
    raise RequestError(message, code=code)


def _refusal(identifier: int, error: EphemeralMLError) -> bytes:
    retry = round(error.retry_after * 1000) if isinstance(error, BusyError) else None
    return Refusal(identifier, error.code, str(error), retry).to_bytes()
