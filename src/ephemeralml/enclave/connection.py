"""One client's connection: handshake, then a sealed session, until it ends; each step within its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ephemeralml.enclave.budget import Budget
from ephemeralml.enclave.framing import FrameProtocol
from ephemeralml.enclave.requests import Embed, Issue, Requests
from ephemeralml.enclave.tally import Tally
from ephemeralml.errors import BusyError, EphemeralMLError, SessionError
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.limits import DRAIN_SECONDS, HANDSHAKE_FRAME_BYTES, REQUEST_BYTES, Limits
from ephemeralml.session.messages import Notice, Request
from ephemeralml.session.records import TAG_BYTES, Opener, Sealer

# What a client gets to take the end of a drained session and hang up.
_GOODBYE_SECONDS = 1

ShowEvidence = Callable[[EnclaveHandshake, bytes], Awaitable[tuple[bytes, bytes]]]


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
        # While the session is up.
        self._requests: Requests | None = None
        # Once no further request is taken.
        self._draining = False
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._sealer: Sealer
        self._opener: Opener
        self._document = b""

    # Limits in time.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Nothing was promised yet: a handshake that takes too long ends without a word.
        self._clock = self._loop.call_later(self._limits.handshake_seconds, self.end)

    def _session_is_up(self, requests: Requests) -> None:
        self._expected = None
        self._requests = requests
        self._tally.sessions += 1
        self._tally.sessions_open += 1
        self._cancel(self._clock)
        self._heard = self._loop.time()
        self._clock = self._loop.call_later(self._limits.idle_seconds, self._check_idle, requests)
        self._lifetime = self._loop.call_later(
            self._limits.lifetime_seconds, self._close, "lifetime", "the session reached its lifetime"
        )

    def _check_idle(self, requests: Requests) -> None:
        now = self._loop.time()
        if requests.in_work or self.in_frame:
            self._heard = now
        left = max(self._heard, requests.released) + self._limits.idle_seconds - now
        if left > 0:
            self._clock = self._loop.call_later(left, self._check_idle, requests)
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
        if self._requests is not None:
            self._requests.cancel()
            # They hold this connection: both would wait for the garbage collector, keys and all.
            self._requests = None
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
        if self._draining:
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
        if self._draining:
            return
        if self._requests is not None:
            self._record_received(self._requests, kind, body)
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
                requests = Requests(
                    stream=self,
                    sealer=self._sealer,
                    document=self._document,
                    limits=self._limits,
                    budget=self._budget,
                    tally=self._tally,
                    dimension=self._dimension,
                    embed=self._embed,
                    issue=self._issue,
                )
                self.send(accept)
                self._session_is_up(requests)

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

    def _record_received(self, requests: Requests, kind: FrameType, body: bytes) -> None:
        self._let_go()
        if self._busy is not None:
            self._tally.refused(self._busy.code)
            self._close("busy", str(self._busy))
            return
        plaintext = self._opener.open(kind, body)
        if kind is FrameType.CLOSE:
            self._close("closed", "the client closed the session")
        else:
            requests.take(Request.from_bytes(plaintext))

    def _let_go(self) -> None:
        self._budget.give(self._reading_bytes)
        self._reading_bytes = 0

    # Ending.

    async def drain(self) -> None:
        """Take no further request, answer those in work, say that this is the end, and wait for the client to leave.

        What is not answered within `DRAIN_SECONDS` stays unanswered. A handshake is told to try again.
        """
        if self._requests is None:
            self._fail(unavailable())
        else:
            self._let_go()
            self._draining = True
            await self._requests.answered(seconds=DRAIN_SECONDS)
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
