"""Whoever calls the guest at the host's Unix socket, until its ``CONNECT <port>`` is heard (see `session.hybrid`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from ephemeralml.session.hybrid import Line

_SECONDS: Final = 10


class Caller:
    """Calls `on_called` with the port when the line is whole, or `on_gone` when none will be, once either."""

    def __init__(
        self, connection: socket.socket, *, on_called: Callable[[Caller, int], None], on_gone: Callable[[Caller], None]
    ) -> None:
        self.connection = connection
        self._on_called = on_called
        self._on_gone = on_gone
        self._line = Line()
        self._loop = asyncio.get_running_loop()
        self._late = self._loop.call_later(_SECONDS, self._gone)
        self._loop.add_reader(connection, self._read)

    def _read(self) -> None:
        try:
            # Byte by byte: what follows the line is the guest's.
            while not self._line.take(self.connection.recv(1)):
                pass
            port = self._line.called()
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        self.release()
        self._on_called(self, port)

    def _gone(self) -> None:
        self.release()
        self.connection.close()
        self._on_gone(self)

    def release(self) -> None:
        """Listen to it no more."""
        self._late.cancel()
        self._loop.remove_reader(self.connection)
