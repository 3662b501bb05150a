"""One connection of the guest's vsock and the Unix socket at its other end, with the credit of both sides."""

from __future__ import annotations

import socket
from typing import Final

from ephemeralml.devcloud.vhost.memory import VhostError
from ephemeralml.devcloud.vhost.packet import SHUTDOWN_RECEIVE, SHUTDOWN_SEND, Operation

CREDIT_BYTES: Final = 256 * 1024
"""What is held for a reader that is slow; a guest that sends more has broken the protocol."""

# A guest that has half its window left sends in small pieces, and one with none left stops.
_UPDATE_BYTES: Final = 32 * 1024


class Stream:
    """Bytes both ways. Whoever owns it sends the packets that `pending` names, and data while `can_send`.

    `opened` is when both sides know of it; before, nothing is read from the socket.
    """

    def __init__(self, connection: socket.socket, *, opened: bool, credit: int = 0, forwarded: int = 0) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.opened = opened
        self.pending: list[Operation] = []
        # Towards the guest: its room, what it has taken, what was sent.
        self._credit, self._taken, self._sent = credit, forwarded, 0
        # From the guest: what waits for the socket, what came, what was written, what of that it was told.
        self._waiting = bytearray()
        self._written = 0
        self._told = 0
        self._guest_ended = self._socket_ended = self._half_closed = False

    @property
    def forwarded(self) -> int:
        """Bytes of the guest's that the socket took, modulo 2³². Whoever asks tells the guest."""
        self._told = self._written
        return self._written % 2**32

    @property
    def can_send(self) -> int:
        """Bytes that the guest has room for now; 0 when it takes no more."""
        if not self.opened or self._socket_ended:
            return 0
        return max(0, self._credit - (self._sent - self._taken) % 2**32)

    @property
    def writing(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._waiting)

    @property
    def finished(self) -> bool:
        """Whether neither side has anything more to say."""
        return self._guest_ended and self._socket_ended and not self._waiting

    def credited(self, credit: int, forwarded: int) -> None:
        """The guest tells of its room."""
        self._credit, self._taken = credit, forwarded

    def receive_into(self, room: memoryview) -> int | None:
        """Read from the socket for the guest; 0 at its end, None when there is nothing. Raises OSError."""
        try:
            count = self.socket.recv_into(room)
        except BlockingIOError:
            return None
        self._sent = (self._sent + count) % 2**32
        if not count:
            self._socket_ended = True
        return count

    def write(self, data: bytes) -> None:
        """Bytes of the guest's. Raises `VhostError` for more than it may send, OSError when the socket is gone."""
        if len(self._waiting) + len(data) > CREDIT_BYTES:
            raise VhostError("the guest sends more than it was given credit for")
        self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it. Raises OSError."""
        try:
            while self._waiting:
                count = self.socket.send(self._waiting)
                del self._waiting[:count]
                self._written += count
        except BlockingIOError:
            pass
        if self._written - self._told >= _UPDATE_BYTES:
            self.owe_credit()
        if self._guest_ended and not self._waiting and not self._half_closed:
            self._half_closed = True
            self.socket.shutdown(socket.SHUT_WR)

    def shut_down(self, flags: int) -> None:
        """The guest sends or takes no more. Raises OSError."""
        if flags & SHUTDOWN_SEND:
            self._guest_ended = True
            self.flush()
        if flags & SHUTDOWN_RECEIVE and not self._socket_ended:
            self._socket_ended = True
            self.socket.shutdown(socket.SHUT_RD)

    def owe_credit(self) -> None:
        """The guest asks how much was passed on, or has much room to win by knowing."""
        if Operation.CREDIT_UPDATE not in self.pending:
            self.pending.append(Operation.CREDIT_UPDATE)
