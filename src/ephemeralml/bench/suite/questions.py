"""How the benchmark asks a process that measures itself: JSON in frames, and bare bytes where those are measured.

Not the enclave's protocol, and no enclave that serves clients speaks it: the program that does has measurements of its
own, to which a key is released only where its policy says so.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, Final, Self

from ephemeralml.bench.errors import BenchError
from ephemeralml.session.blocking import read_exactly, write_all

MESSAGE_BYTES: Final = 16 << 20
LARGEST_PAYLOAD: Final = 1 << 20
_LENGTH = struct.Struct(">I")


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Raises `TransportError`."""
    body = json.dumps(message).encode()
    write_all(connection, _LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket) -> dict[str, Any]:
    """Raises `TransportError`, or `BenchError` for what is no message."""
    (length,) = _LENGTH.unpack(read_exactly(connection, _LENGTH.size))
    if length > MESSAGE_BYTES:
        raise BenchError(f"a message of {length} bytes", code="bench.message")
    try:
        message = json.loads(read_exactly(connection, length))
    except ValueError as error:
        raise BenchError("a message that is not JSON", code="bench.message") from error
    if not isinstance(message, dict):
        raise BenchError("a message that is not an object", code="bench.message")
    return message


class Asked:
    """The end that asks: one connection to a process that measures. A context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: str, **values: Any) -> dict[str, Any]:
        """The answer. Raises `TransportError`, or `BenchError` with the other end's words when it failed."""
        send(self.connection, {"ask": question, **values})
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """What the other end says next, as `ask` returns it."""
        answer = receive(self.connection)
        if "error" in answer:
            raise BenchError(
                f"the measured process failed: {answer['error']!s:.300}", code=f"bench.{answer.get('code')!s:.60}"
            )
        return answer

    def close(self) -> None:
        """Hang up."""
        self.connection.close()
