"""A stretch of an object: several ranges on their way at once, in bounded memory, resumed where they broke off."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from ephemeralml.host.s3.client import truncated, unreachable
from ephemeralml.host.s3.object import Range, S3Object

# One range, so also what a reader holds of it at most.
PART_BYTES: Final = 8 << 20
# Ranges that are on their way or wait to be read besides the one each reader is at: 64 MiB for all of a source.
PARTS_AHEAD: Final = 8
_PIECE_BYTES: Final = 1 << 20
# For one range: a dropped connection costs one, whatever came over it.
_ATTEMPTS: Final = 5
_BROKEN_OFF: Final = (BotoCoreError, HTTPError, OSError)
_PAUSE_SECONDS: Final = 0.2
# Longer than a client that gives up by itself: this is for bytes that trickle.
_STALL_SECONDS: Final = 50.0


@dataclass(slots=True, eq=False)
class _Part:
    start: int
    stop: int
    ahead: bool
    pieces: deque[bytes | memoryview] = field(default_factory=deque)
    done: bool = False
    error: BaseException | None = None


class RangeReader:
    """Reads `item` from `start`, at most `size` bytes; a context manager, to be read by one thread.

    Entering it waits for the first answer. Raises what `S3Object.get` does, then or when the bytes are asked for, and
    ``s3.unreachable`` when a connection broke too often or stands still.
    """

    def __init__(self, item: S3Object, *, start: int, size: int | None, ahead: threading.Semaphore) -> None:
        """`ahead` is shared by all readers of a source: how many parts they may hold besides their current ones."""
        self._item = item
        self._next = start
        self._stop = None if size is None else start + size
        self._ahead = ahead
        self._parts: deque[_Part] = deque()
        # Guards all that follows of parts; told of every piece, and of a part's end.
        self._news = threading.Condition()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        pin = self._item.pin
        if pin is not None and self._next >= pin.size:
            raise truncated(self._item.url)
        with self._news:
            self._plan()
            try:
                while self._parts and not (self._parts[0].pieces or self._parts[0].done):
                    self._wait()
                self._raise_error()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; what is on its way ends by itself."""
        with self._news:
            self._closed.set()
            while self._parts:
                self._drop()

    def read(self, size: int) -> bytes | memoryview:
        """The next 1 to `size` bytes as they come, and none at the end."""
        with self._news:
            while self._parts and not self._parts[0].pieces:
                self._raise_error()
                if self._parts[0].done:
                    self._drop()
                    self._plan()
                else:
                    self._wait()
            if not self._parts:
                return b""
            pieces = self._parts[0].pieces
            piece = pieces.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                piece = view[:size]
                pieces.appendleft(view[size:])
            return piece

    def _plan(self) -> None:
        """Start as many parts as there is room for. Of an object of unknown size, one."""
        pin = self._item.pin
        while not self._closed.is_set():
            stop = self._next + PART_BYTES if self._stop is None else self._stop
            if pin is not None:
                stop = pin.size if self._stop is None else min(stop, pin.size)
            if self._next >= stop:
                return
            ahead = bool(self._parts)
            if ahead and (pin is None or not self._ahead.acquire(blocking=False)):
                return
            part = _Part(self._next, min(self._next + PART_BYTES, stop), ahead)
            self._next = part.stop
            self._parts.append(part)
            # Not a pool's thread: nothing waits for it when the process ends.
            threading.Thread(target=self._fetch, args=(part,), name="s3", daemon=True).start()

    def _fetch(self, part: _Part) -> None:
        try:
            self._fill(part)
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            part.error = error
        with self._news:
            part.done = True
            self._news.notify()

    def _fill(self, part: _Part) -> None:
        for attempt in range(_ATTEMPTS):
            # The pause grows: 0 (the first time), 0.2, 0.4, … seconds.
            if self._closed.wait(attempt * _PAUSE_SECONDS):
                return
            got = self._item.get(part.start, part.stop)
            with self._news:
                part.stop = got.stop
                self._plan()
            with closing(got.body):
                self._receive(part, got)
            if part.start == part.stop:
                return
        raise unreachable(self._item.url, f"the connection broke {_ATTEMPTS} times")

    def _receive(self, part: _Part, got: Range) -> None:
        """Move `part.start` forward by what comes."""
        while part.start < part.stop:
            try:
                piece = got.body.read(min(_PIECE_BYTES, part.stop - part.start))
            except _BROKEN_OFF:
                return
            with self._news:
                if not piece or self._closed.is_set():
                    return
                part.start += len(piece)
                part.pieces.append(piece)
                self._news.notify()

    def _wait(self) -> None:
        if not self._news.wait(_STALL_SECONDS):
            raise unreachable(self._item.url, f"nothing came for {_STALL_SECONDS:.0f} seconds")

    def _raise_error(self) -> None:
        if self._parts and self._parts[0].error is not None and not self._parts[0].pieces:
            raise self._parts[0].error

    def _drop(self) -> None:
        part = self._parts.popleft()
        # What it holds may still be read by whoever has a view of it, and is gone after that.
        if part.ahead:
            self._ahead.release()
