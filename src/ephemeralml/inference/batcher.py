"""Requests of all sessions meet here: one thread owns the engine and serves the sessions in turn, text by text."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeAlias

import numpy as np

from ephemeralml.errors import BusyError, EphemeralMLError, RequestError
from ephemeralml.inference.encoder import Encoder
from ephemeralml.inference.weights import Array
from ephemeralml.texts import check_texts

MAX_TEXTS: Final = 32_768
"""Texts that may wait, over all requests."""
MAX_CHARACTERS: Final = 32 << 20
"""Characters that may wait, over all requests: tokens are counted only when a text's turn comes."""
MAX_TEXT_CHARACTERS: Final = 100_000
"""Characters of one text: 100 ms of tokenizing at worst (one word of Hangul), hundreds of times what a model reads."""
SESSION_SHARE: Final = 4
"""One session may fill this part of the queue: several must conspire to keep the others out."""
_SECONDS_PER_TOKEN: Final = 50e-6
"""Of engine time, about: what tokenizing takes is charged like so many tokens, since a text may be long to tokenize and
give next to none."""
_LEAST_CREDIT: Final = 64
_MOST_DEBT: Final = 4096
"""About what the dearest text costs: what takes longer still is the machine's doing, not the session's."""
_CALLS_AHEAD: Final = 16
"""Engine calls that a round fills while one session alone waits: of so many mixed texts, those of a length find each
other (a call's padding falls from 38 % of its tokens to 7 %)."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One request's answer.

    ``vectors`` is float32 (texts, dimension); ``tokens`` counts those read, special ones included; ``execution_ms``
    is the time of the engine calls the request had a part in, ``queue_ms`` that from its submission to its turn.
    """

    vectors: Array
    tokens: int
    execution_ms: float
    queue_ms: float


@dataclass(slots=True, eq=False)
class _Queue:
    """What one session has waiting; below zero, `credit` is what it was served before its turn."""

    jobs: deque[_Job] = field(default_factory=deque)
    texts: int = 0
    characters: int = 0
    credit: int = 0

    def add(self, texts: int, characters: int) -> None:
        self.texts += texts
        self.characters += characters


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Job:
    texts: Sequence[str]
    vectors: Array
    session: Hashable
    queue: _Queue = field(default_factory=_Queue)
    future: Future[Embedded] = field(default_factory=Future)
    taken: int = 0
    done: int = 0
    tokens: int = 0
    execution_ms: float = 0.0
    submitted: float = field(default_factory=time.perf_counter)
    queue_ms: float = 0.0
    settled: bool = False


_Text: TypeAlias = tuple[_Job, int]
_Group: TypeAlias = list[tuple[_Text, list[int]]]
"""Texts of one engine call, and their token ids."""


class Batcher:
    """Merges requests of any thread into engine calls.

    Rounds are filled up to a token budget by deficit round robin (Shreedhar and Varghese 1995): at its turn each
    session gets the same credit, and takes texts, of each of its requests in turn, until what they cost has used it up.
    Neither a request of thousands, nor a session of many requests, nor texts that are dear delay another session much.
    One that sends them one by one pays all the same: a session in debt keeps its place while others wait.
    Within a round the shortest texts run first, and an idle engine never waits. A session that waits alone gets a round
    of many calls, and whoever comes in the middle of it one of their own after the call under way. Queue limits:
    `max_texts` and `max_characters` waiting in all, and a `SESSION_SHARE`th of each for one session.
    """

    def __init__(self, encoder: Encoder, *, max_texts: int = MAX_TEXTS, max_characters: int = MAX_CHARACTERS) -> None:
        self._encoder = encoder
        self._max_texts = max_texts
        self._max_characters = max_characters
        self._changed = threading.Condition()
        self._sessions: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._waiting = _Queue()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="ephemeralml-batcher", daemon=True)
        self._worker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, texts: Sequence[str], *, session: Hashable = None) -> Future[Embedded]:
        """Queue one request of a `session`; its future can be cancelled until it is answered.

        Raises `RequestError` for what is not a list of Unicode strings or can never fit, `BusyError` when the queue or
        the session's part of it is full, or the batcher closed.
        """
        texts = check_texts(texts)
        if any(len(text) > MAX_TEXT_CHARACTERS for text in texts):
            raise RequestError(f"a text is longer than {MAX_TEXT_CHARACTERS} characters", code="request.text_size")
        characters = sum(map(len, texts))
        share = self._max_texts // SESSION_SHARE, self._max_characters // SESSION_SHARE
        if len(texts) > share[0] or characters > share[1]:
            raise RequestError(
                f"more than {share[0]} texts or {share[1]} characters in one request", code="request.size"
            )
        job = _Job(texts, np.empty((len(texts), self._encoder.dimension), np.float32), session)
        # Weak: a job and its future that hold each other wait for the garbage collector, vectors, texts and all.
        reference = weakref.ref(job)
        job.future.add_done_callback(lambda _: self._drop(reference()))
        if not texts:
            job.future.set_result(Embedded(job.vectors, 0, 0.0, 0.0))
            return job.future
        with self._changed:
            if self._closed:
                raise _closing()
            mine = self._sessions.get(session) or _Queue()
            for queue, limits in ((mine, share), (self._waiting, (self._max_texts, self._max_characters))):
                if queue.texts + len(texts) > limits[0] or queue.characters + characters > limits[1]:
                    raise BusyError("too many texts are waiting", code="busy.queue")
            for queue in (mine, self._waiting):
                queue.add(len(texts), characters)
            mine.jobs.append(job)
            job.queue = mine
            self._sessions.setdefault(session, mine)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish the call under way, fail what still waits with `BusyError`, join the worker. May be repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while self._wait():
            self._serve_round()
        for job in [job for queue in self._sessions.values() for job in queue.jobs]:
            self._settle(job, _closing())

    def _wait(self) -> bool:
        with self._changed:
            if not self._waiting.texts:
                # Nobody had to wait for what the others were served.
                self._sessions.clear()
            self._changed.wait_for(lambda: self._waiting.texts or self._closed)
            return not self._closed

    def _serve_round(self) -> None:
        served: set[_Job] = set()
        groups = self._take_round(served, calls=_CALLS_AHEAD)
        sessions = {job.session for job in served}
        for group in groups:
            self._run(group)
            if self._others_wait(sessions, served):
                for theirs in self._take_round(served, calls=1):
                    self._run(theirs)

    def _others_wait(self, sessions: Set[Hashable], served: Set[_Job]) -> bool:
        """Whether another session waits, or a request of these that had no turn yet."""
        with self._changed:
            return any(
                job.session not in sessions or job not in served
                for queue in self._sessions.values()
                for job in queue.jobs
            )

    def _alone(self) -> bool:
        with self._changed:
            return sum(bool(queue.jobs) for queue in self._sessions.values()) == 1

    def _take_round(self, served: set[_Job], *, calls: int) -> list[_Group]:
        """One text of each session in turn until a call's budget is met, or that of `calls` while one waits alone.

        Grouped as they go to the engine; their requests are added to those `served`.
        """
        taken: list[_Text] = []
        ids: list[list[int]] = []
        spent = ahead = 0
        budget = self._encoder.tokens_per_run
        while spent < budget or (spent < calls * budget and self._alone()):
            if (text := self._next_text()) is None:
                break
            job, position = text
            start = time.perf_counter()
            if position == 0:
                job.queue_ms = (start - job.submitted) * 1000
            tokens: list[int] = []
            try:
                [tokens] = self._encoder.tokenize([job.texts[position]])
            # A panic in the tokenizer's Rust arrives as a BaseException; one text must not stop the worker.
            except BaseException as error:  # noqa: BLE001
                self._settle(job, _failure(error))
            else:
                served.add(job)
                taken.append(text)
                ids.append(tokens)
                job.tokens += len(tokens)
            cost = len(tokens) + int((time.perf_counter() - start) / _SECONDS_PER_TOKEN)
            self._charge(job, cost)
            ahead += cost if spent >= budget else 0
            spent += cost
        if ahead and taken:
            # Alone, it had credit for that too: should others come, it has had its turns until this is paid.
            self._charge(taken[-1][0], ahead)
        groups = self._encoder.group([len(tokens) for tokens in ids])
        return [[(taken[row], ids[row]) for row in rows] for rows in groups]

    def _next_text(self) -> _Text | None:
        with self._changed:
            if not self._waiting.texts:
                return None
            queue = self._whose_turn()
            queue.jobs.rotate(-1)
            job = queue.jobs[-1]
            position = job.taken
            job.taken += 1
            self._forget(queue, job.texts[position : job.taken])
            return job, position

    def _whose_turn(self) -> _Queue:
        """The first session with credit; those before it get theirs for their next turn, behind the others."""
        while True:
            session, queue = next(iter(self._sessions.items()))
            if queue.credit > 0:
                return queue
            queue.credit += max(_LEAST_CREDIT, self._encoder.tokens_per_run // len(self._sessions))
            self._sessions.move_to_end(session)
            self._let_go(session, queue)

    def _charge(self, job: _Job, cost: int) -> None:
        """Let the session pay for a text, and take a request out of the queue with its last one."""
        with self._changed:
            job.queue.credit = max(job.queue.credit - cost, -_MOST_DEBT)
            if job.taken == len(job.texts) and job in job.queue.jobs:
                self._remove(job)

    def _drop(self, job: _Job | None) -> None:
        """Take what still waits of a request out of the queue: it was cancelled, or failed. Called in any thread."""
        if job is None:
            return
        with self._changed:
            if job.future.cancelled() and not job.settled:
                job.settled = True
                # Tells those who wait in `concurrent.futures.wait`.
                job.future.set_running_or_notify_cancel()
            if (waiting := job.texts[job.taken :]) and job in job.queue.jobs:
                job.taken = len(job.texts)
                self._forget(job.queue, waiting)
                self._remove(job)

    def _remove(self, job: _Job) -> None:
        job.queue.jobs.remove(job)
        self._let_go(job.session, job.queue)

    def _let_go(self, session: Hashable, queue: _Queue) -> None:
        """Forget a session that waits for nothing and owes nothing."""
        if not queue.jobs and queue.credit >= 0:
            del self._sessions[session]

    def _forget(self, queue: _Queue, texts: Sequence[str]) -> None:
        characters = sum(map(len, texts))
        for counted in (queue, self._waiting):
            counted.add(-len(texts), -characters)

    def _run(self, group: _Group) -> None:
        """One engine call: answers the requests it completes, and fails only its own."""
        # In the middle of a round some were cancelled, or the batcher closed.
        if self._closed:
            for (job, _), _ in group:
                self._settle(job, _closing())
        left = [(text, tokens) for text, tokens in group if not text[0].settled]
        if not left:
            return
        texts = [text for text, _ in left]
        start = time.perf_counter()
        try:
            vectors = self._encoder.run([tokens for _, tokens in left])
        # Whatever the engine does, the other requests go on.
        except BaseException as error:  # noqa: BLE001
            for job, _ in texts:
                self._settle(job, _failure(error))
            return
        elapsed = (time.perf_counter() - start) * 1000
        for job in {id(job): job for job, _ in texts}.values():
            job.execution_ms += elapsed
        for (job, position), vector in zip(texts, vectors, strict=True):
            job.vectors[position] = vector
            job.done += 1
            if job.done == len(job.texts):
                self._settle(job, Embedded(job.vectors, job.tokens, job.execution_ms, job.queue_ms))

    def _settle(self, job: _Job, outcome: Embedded | EphemeralMLError) -> None:
        """Answer a request once, unless its caller cancelled it."""
        with self._changed:
            if job.settled:
                return
            job.settled = True
        if not job.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Embedded):
            job.future.set_result(outcome)
        else:
            job.future.set_exception(outcome)


def _closing() -> BusyError:
    return BusyError("the encoder is shutting down", code="busy.closed")


def _failure(cause: BaseException) -> EphemeralMLError:
    error = EphemeralMLError("the inference engine failed on this request", code="inference.engine")
    error.__cause__ = cause
    return error
