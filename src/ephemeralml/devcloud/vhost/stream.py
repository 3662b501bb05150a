"""One connection between the guest and a Unix socket of the host's, and the credit of either side (virtio 5.10.6.3).

Towards the host at most `ALLOCATED` bytes wait here; towards the guest nothing does, it is read when there is room.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Protocol

from ephemeralml.devcloud.vhost.packet import Key

ALLOCATED: Final = 128 * 1024
# Told this early, a guest that waits for room to send its next piece never waits for us (vsock of Linux sends 64 KiB).
_TELL_BYTES: Final = 32 * 1024
_WRAP: Final = 1 << 32


class Owner(Protocol):
    """Who is told what happens at the host's side of a stream."""

    def readable(self, stream: Stream) -> None:
        """There may be something to read for the guest."""

    def relieved(self, stream: Stream) -> None:
        """The host has taken so much that the guest ought to know."""

    def failed(self, stream: Stream) -> None:
        """The host's side is gone."""

    def drained(self, stream: Stream) -> None:
        """The host has taken all."""


class Stream:
    """Bytes both ways. The guest's numbers are believed as far as they only bound what it gets itself."""

    def __init__(self, connection: socket.socket, key: Key, owner: Owner) -> None:
        self.key = key
        self.opened = False
        self._connection = connection
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        # Towards the guest: its room, what it has used up of what it got, what it got.
        self._room = self._used = self._sent = 0
        self._reading = self._silent = self._deaf = False
        # Towards the host.
        self._waiting = bytearray()
        self._last_came = self._writing = False
        self._late: asyncio.TimerHandle | None = None
        self.forwarded = 0
        self._told = 0

    def expire(self, seconds: float) -> None:
        """Count it as failed after that time, unless it is closed or kept before."""
        self._late = self._loop.call_later(seconds, self._owner.failed, self)

    def keep(self) -> None:
        """It has done what it had time for."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    # Towards the guest.

    def credit(self, *, allocated: int, forwarded: int) -> None:
        """What the guest says of its room, with every packet."""
        self._room, self._used = allocated, forwarded
        if self.opened:
            self.listen()

    @property
    def _credit(self) -> int:
        return self._room - (self._sent - self._used) % _WRAP

    def listen(self) -> None:
        """Watch for something to read, unless the guest has no room or one of both wants no more."""
        if not (self._reading or self._silent or self._deaf) and self._credit > 0:
            self._reading = True
            self._loop.add_reader(self._connection, self._readable)

    def _readable(self) -> None:
        self._stop_reading()
        self._owner.readable(self)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._connection)

    def read(self, limit: int) -> bytes | None:
        """At most `limit` bytes for the guest, b"" once at the end, None for nothing now. Raises OSError."""
        if self._silent or self._deaf or (size := min(limit, self._credit)) <= 0:
            return None
        try:
            data = self._connection.recv(size)
        except BlockingIOError:
            return None
        self._silent = not data
        self._sent = (self._sent + len(data)) % _WRAP
        return data

    def hear_no_more(self) -> None:
        """The guest receives no more."""
        self._deaf = True
        self._stop_reading()
        self._shut(socket.SHUT_RD)

    # Towards the host.

    def write(self, data: bytes) -> bool:
        """Take what the guest sends; False when it had no credit for so much, or had said it would send no more."""
        if self._last_came or len(self._waiting) + len(data) > ALLOCATED:
            return False
        self._waiting += data
        self._flush()
        return True

    def greet(self, line: bytes) -> None:
        """Write a line of ours, before anything of the guest's."""
        try:
            self._connection.send(line)
        except OSError:
            # Without a peer, or with one that takes not even that: the first byte of the guest's will show it.
            return

    def end(self) -> None:
        """The guest sends no more: the host hears of it behind the last byte."""
        self._last_came = True
        self._flush()

    def told(self) -> None:
        """The guest gets to know what was forwarded."""
        self._told = self.forwarded

    def _flush(self) -> None:
        try:
            while self._waiting:
                taken = self._connection.send(self._waiting)
                del self._waiting[:taken]
                self.forwarded = (self.forwarded + taken) % _WRAP
        except BlockingIOError:
            pass
        except OSError:
            self._owner.failed(self)
            return
        if bool(self._waiting) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._connection, self._flush)
            else:
                self._loop.remove_writer(self._connection)
        if self._last_came and not self._waiting:
            self._shut(socket.SHUT_WR)
            self._owner.drained(self)
        elif (self.forwarded - self._told) % _WRAP >= _TELL_BYTES:
            self._owner.relieved(self)

    def _shut(self, how: int) -> None:
        try:
            self._connection.shutdown(how)
        except OSError:
            # The peer has left already.
            return

    def close(self) -> None:
        """Cut it."""
        self.keep()
        self._stop_reading()
        if self._writing:
            self._loop.remove_writer(self._connection)
            self._writing = False
        self._connection.close()
