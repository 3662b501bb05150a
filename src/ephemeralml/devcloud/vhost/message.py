"""Messages of vhost-user ("Message Specification"): a header of three numbers, a payload, descriptors beside it."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from ephemeralml.devcloud.vhost.violation import DeviceViolationError

HEADER: Final = struct.Struct("<III")
# The largest that is known here is a configuration space of 256 bytes, or a table of 8 regions.
MAX_PAYLOAD_BYTES: Final = 512
MAX_DESCRIPTORS: Final = 8

_VERSION, _VERSION_MASK, _REPLY, _NEED_REPLY = 1, 3, 4, 8


class Request(IntEnum):
    """The front-end's requests that a back-end with our features can get."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25


@dataclass(slots=True)
class Message:
    """A request; the descriptors are its own until `take` hands one out."""

    request: Request
    needs_reply: bool
    payload: bytes
    descriptors: list[int] = field(default_factory=list)

    def numbers(self, form: str) -> tuple[int, ...]:
        """The payload as little-endian numbers of that form. Raises `DeviceViolationError` (``vhost.message``)."""
        if len(self.payload) != struct.calcsize(f"<{form}"):
            raise malformed(f"{self.request.name} with {len(self.payload)} bytes")
        return struct.unpack(f"<{form}", self.payload)

    def number(self) -> int:
        """The payload as one number of 64 bits."""
        (number,) = self.numbers("Q")
        return number

    def take(self) -> int | None:
        """The first descriptor, which is the caller's to close from here on, or None."""
        return self.descriptors.pop(0) if self.descriptors else None

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Channel:
    """The front-end's connection, which does not block: bytes in, messages out."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._bytes = bytearray()
        self._descriptors: list[int] = []

    def receive(self) -> Message | None:
        """A whole message, or None until more has come.

        Raises EOFError at the end, OSError, and `DeviceViolationError` (``vhost.message``).
        """
        while (wanted := self._wanted()) > 0:
            try:
                # Never past the end of this message: the descriptors of the next one come with its first byte.
                data, descriptors, flags, _ = socket.recv_fds(
                    self._connection, wanted, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            self._descriptors += descriptors
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > MAX_DESCRIPTORS:
                raise malformed(f"more than {MAX_DESCRIPTORS} descriptors")
            if not data:
                raise EOFError
            self._bytes += data
        number, flags, _ = HEADER.unpack_from(self._bytes)
        if flags & _VERSION_MASK != _VERSION or flags & _REPLY:
            raise malformed(f"flags {flags:#x}")
        try:
            request = Request(number)
        except ValueError:
            raise malformed(f"request {number}, which needs a feature that was not offered") from None
        message = Message(request, bool(flags & _NEED_REPLY), bytes(self._bytes[HEADER.size :]), self._descriptors)
        self._bytes, self._descriptors = bytearray(), []
        return message

    def _wanted(self) -> int:
        if len(self._bytes) < HEADER.size:
            return HEADER.size - len(self._bytes)
        _, _, size = HEADER.unpack_from(self._bytes)
        if size > MAX_PAYLOAD_BYTES:
            raise malformed(f"{size} bytes")
        return HEADER.size + int(size) - len(self._bytes)

    def reply(self, request: Request, payload: bytes) -> None:
        """Answer; the front-end waits for it. Raises OSError when it does not take it."""
        self._connection.sendall(HEADER.pack(request, _VERSION | _REPLY, len(payload)) + payload)

    def close(self) -> None:
        """Close the connection, and what came with half a message."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._connection.close()


def malformed(what: str) -> DeviceViolationError:
    """A message of the front-end's that cannot be followed."""
    return DeviceViolationError(f"the front-end sent {what}", code="vhost.message")
