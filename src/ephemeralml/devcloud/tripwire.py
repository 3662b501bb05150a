"""A wire that something happens to: a proxy in front of a server, which lets so many bytes through and then acts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from ephemeralml.errors import TransportError
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.transport import Address, connect

_TIMEOUT_SECONDS = 30.0


class Tripwire:
    """Listens on loopback and copies to and from `target`; once `after` bytes came back it calls `then`, one time.

    No byte passes while `then` runs, and the rest of that connection is lost: whatever it does happens in the middle.
    """

    def __init__(self, target: Address, *, after: int, then: Callable[[], object]) -> None:
        self._target = target
        self._left = after
        self._then: Callable[[], object] | None = then
        self._lock = threading.Lock()
        self.tripped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("tcp", host="127.0.0.1", port=self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="tripwire", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A thread in accept(2) keeps the socket open, and the port with it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), name="tripwire", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        # A target that is away, or leaves: the caller is hung up on.
        with suppress(OSError, TransportError), near, connect(self._target, timeout=_TIMEOUT_SECONDS) as far:
            threading.Thread(target=_copy, args=(near, far), name="tripwire", daemon=True).start()
            while chunk := far.recv(WRITE_BYTES):
                if self._pass(near, chunk):
                    return

    def _pass(self, near: socket.socket, chunk: bytes) -> bool:
        """Send what came back, as far as it goes; whether that was the end."""
        with self._lock:
            trips = self._then is not None and len(chunk) > self._left
            near.sendall(chunk[: self._left] if trips else chunk)
            self._left -= len(chunk)
            if trips and self._then is not None:
                then, self._then = self._then, None
                then()
                self.tripped.set()
        return trips


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(WRITE_BYTES):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
