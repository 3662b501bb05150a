r"""Hybrid vsock: one side of a vsock as a Unix socket, as Firecracker, Cloud Hypervisor and vhost-device-vsock have it.

The caller writes ``CONNECT <port>\n``; once somebody accepted on that port it reads ``OK <its own port>\n`` and the
stream begins. When nobody listens there, the connection is closed without a word.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time

from ephemeralml.session.address import PORT_ANY

# Either line is at most 19 bytes when it is meant well.
LINE_BYTES = 64
_CALL = re.compile(rb"CONNECT ([0-9]{1,10})\n")
_ACCEPTED = re.compile(rb"OK [0-9]{1,10}\n")


class Line:
    """A line taken from a stream byte by byte, so that none of what follows it is swallowed."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def take(self, byte: bytes) -> bool:
        """Whether the line is whole with this byte, b"" for the stream's end. Raises `ConnectionError`."""
        if not byte:
            raise ConnectionRefusedError("nobody listens on that port")
        self._bytes += byte
        if byte != b"\n" and len(self._bytes) >= LINE_BYTES:
            raise ConnectionAbortedError(f"a line of more than {LINE_BYTES} bytes where a hybrid vsock has a short one")
        return byte == b"\n"

    def called(self) -> int:
        """The port that this line asks for. Raises `ConnectionError`."""
        if (match := _CALL.fullmatch(self._bytes)) is None or int(match[1]) >= PORT_ANY:
            raise ConnectionAbortedError("no CONNECT with a port")
        return int(match[1])

    def check_accepted(self) -> None:
        """Raises `ConnectionError` unless this line says that the stream begins."""
        if _ACCEPTED.fullmatch(self._bytes) is None:
            raise ConnectionAbortedError("the answer to CONNECT is not that of a hybrid vsock")


def call(connection: socket.socket, port: int, *, deadline: float) -> None:
    """Ask for `port` on a connected Unix socket, by `deadline` (monotonic). Raises OSError; changes the timeout."""
    line, whole = Line(), False
    connection.sendall(_request(port))
    while not whole:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        whole = line.take(connection.recv(1))
    line.check_accepted()


async def call_async(connection: socket.socket, port: int) -> None:
    """The same on a socket that does not block; its time is the caller's to bound."""
    loop = asyncio.get_running_loop()
    line = Line()
    await loop.sock_sendall(connection, _request(port))
    while not line.take(await loop.sock_recv(connection, 1)):
        pass
    line.check_accepted()


def _request(port: int) -> bytes:
    return b"CONNECT %d\n" % port
