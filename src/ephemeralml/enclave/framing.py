"""Frames over one of the event loop's connections: read as they come, written in turn, each within its time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from ephemeralml.errors import EphemeralMLError, SessionError
from ephemeralml.session.frames import HEADER, FrameType, decode_header
from ephemeralml.session.limits import WRITE_BYTES

# What a client gets to take our last words.
_LAST_SECONDS = 5


def _nothing() -> None:
    """What is to be done when most frames have gone out."""


class FrameProtocol(asyncio.BufferedProtocol, ABC):
    """The peer's frames go to the methods that a subclass fills in; `send` queues ours.

    Reading pauses while the peer does not take what is written. A frame that is not delivered, or not taken, within
    `frame_seconds` ends the connection. `buffer` may be shared by all connections of a loop, which fills it and hands
    it over in one step.
    """

    def __init__(self, *, buffer: memoryview, frame_seconds: float) -> None:
        self._buffer = buffer
        self._frame_seconds = frame_seconds
        self._loop = asyncio.get_running_loop()
        self._header = bytearray()
        self._kind = FrameType.ALERT
        self._body = bytearray()
        self._left = -1
        self._held = b""
        self._reading = True
        self._frame_timer: asyncio.TimerHandle | None = None
        self._outgoing: deque[tuple[memoryview, Callable[[], None] | None]] = deque()
        self._write_timer: asyncio.TimerHandle | None = None
        self._full = False
        self._ending = False
        self._ended_by_peer = False
        self._last: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    # What a subclass says to a frame.

    @abstractmethod
    def frame_limit(self) -> int:
        """Bytes of the next frame's body at most."""

    @abstractmethod
    def header_received(self, kind: FrameType) -> None:
        """A frame begins. May raise `EphemeralMLError`, which ends the connection."""

    @abstractmethod
    def body_received(self, size: int) -> bool:
        """So many bytes of a body came: whether to keep them."""

    @abstractmethod
    def frame_received(self, kind: FrameType, body: bytes) -> None:
        """A whole frame. May raise `EphemeralMLError`, which ends the connection."""

    @abstractmethod
    def failed(self, error: EphemeralMLError) -> None:
        """The peer broke a rule; called once at most, before the connection is closed."""

    # Reading.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        # What comes after the end is read and dropped: closing on unread bytes could take our last words away.
        if not self._ending:
            self._consume(self._buffer[:count])

    def hold(self) -> None:
        """Read nothing more until `go_on`."""
        self._reading = False
        self._steer()

    def go_on(self) -> None:
        """Read again, beginning with what came meanwhile."""
        self._reading = True
        held, self._held = self._held, b""
        self._consume(memoryview(held))
        self._steer()

    def _consume(self, data: memoryview) -> None:
        try:
            while not self._ending and self._reading and (len(data) or self._left == 0):
                data = self._in_body(data) if self._left >= 0 else self._in_header(data)
        except EphemeralMLError as error:
            self._fail(error)
            return
        if len(data) and not self._ending:
            # At most one buffer's worth: nothing is read while this waits.
            self._held += bytes(data)
        if self._left > 0 and self._frame_timer is None:
            self._frame_timer = self._loop.call_later(self._frame_seconds, self._too_slow)

    def _in_header(self, data: memoryview) -> memoryview:
        missing = HEADER.size - len(self._header)
        self._header += data[:missing]
        if len(self._header) == HEADER.size:
            self._kind, length = decode_header(bytes(self._header), limit=self.frame_limit())
            self.header_received(self._kind)
            self._header.clear()
            self._left = length
        return data[missing:]

    def _in_body(self, data: memoryview) -> memoryview:
        chunk = data[: self._left]
        if len(chunk):
            if self.body_received(len(chunk)):
                self._body += chunk
            self._left -= len(chunk)
        if not self._left:
            body, self._body, self._left = bytes(self._body), bytearray(), -1
            if self._frame_timer is not None:
                self._frame_timer.cancel()
                self._frame_timer = None
            self.frame_received(self._kind, body)
        return data[len(chunk) :]

    def _too_slow(self) -> None:
        self._fail(SessionError("the client delivers a frame too slowly", code="session.slow"))

    def _fail(self, error: EphemeralMLError) -> None:
        if not self._ending:
            self.failed(error)
            self.end()

    def eof_received(self) -> bool:
        self._ended_by_peer = True
        if self._ending:
            self.transport.close()
        self.end()
        # Closed here, after the last words.
        return True

    # Writing.

    def send(self, frame: bytes, *, sent: Callable[[], None] = _nothing) -> None:
        """Queue a frame; `sent` is called once when it went out, or never will."""
        if self._ending:
            sent()
            return
        view = memoryview(frame)
        # Pieces that vsock carries well.
        for start in range(0, len(view), WRITE_BYTES):
            last = start + WRITE_BYTES >= len(view)
            self._outgoing.append((view[start : start + WRITE_BYTES], sent if last else None))
        self._flush()

    def _flush(self) -> None:
        while self._outgoing and not self._full:
            piece, sent = self._outgoing.popleft()
            self.transport.write(piece)
            if sent is not None:
                self._stop_write_timer()
                sent()
        if self._outgoing and self._write_timer is None:
            self._write_timer = self._loop.call_later(self._frame_seconds, self.transport.abort)
        if self._ending and not self._outgoing and not self.transport.is_closing():
            if self._ended_by_peer:
                self.transport.close()
            else:
                # A peer that reset the connection has no other direction to end.
                with suppress(OSError):
                    self.transport.write_eof()
        self._steer()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush()

    def _steer(self) -> None:
        if self._ending or (self._reading and not self._full):
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # Ending.

    @property
    def in_frame(self) -> bool:
        """Whether the peer is in the middle of a frame's body."""
        return self._left >= 0

    @property
    def ending(self) -> bool:
        """Whether nothing more is read or sent."""
        return self._ending

    def end(self) -> None:
        """Send what is queued and an end, then close when the peer does, or soon."""
        if not self._ending:
            self._ending = True
            self._last = self._loop.call_later(_LAST_SECONDS, self.transport.abort)
            self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._stop_write_timer()
        for timer in (self._frame_timer, self._last):
            if timer is not None:
                timer.cancel()
        for _, sent in self._outgoing:
            if sent is not None:
                sent()
        self._outgoing.clear()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def call_soon_from_thread(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """As `call_soon_threadsafe`, and nothing once the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
