"""The packets of a virtio socket (virtio, section 5.10.6): a header of 44 bytes, data behind it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("<QQIIIHHIII")
HEADER_BYTES: Final = _HEADER.size
STREAM: Final = 1
# SHUTDOWN's flags: the sender of the packet receives, or sends, no more.
NO_RECEIVE, NO_SEND = 1, 2


class Operation(IntEnum):
    """What a packet is for."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Key(NamedTuple):
    """Which connection: the host as this guest addresses it, and the port on either side."""

    host_cid: int
    host_port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet's header. `length` is that of the data behind it; `allocated` and `forwarded` are credit's."""

    source: int
    destination: int
    source_port: int
    destination_port: int
    length: int = 0
    kind: int = STREAM
    operation: int
    flags: int = 0
    allocated: int = 0
    forwarded: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """The header at the beginning of `data`, which has one; any bytes are some header."""
        source, destination, source_port, destination_port, length, kind, operation, flags, allocated, forwarded = (
            _HEADER.unpack_from(data)
        )
        return cls(
            source=source,
            destination=destination,
            source_port=source_port,
            destination_port=destination_port,
            length=length,
            kind=kind,
            operation=operation,
            flags=flags,
            allocated=allocated,
            forwarded=forwarded,
        )

    def __bytes__(self) -> bytes:
        return _HEADER.pack(
            self.source,
            self.destination,
            self.source_port,
            self.destination_port,
            self.length,
            self.kind,
            self.operation,
            self.flags,
            self.allocated,
            self.forwarded,
        )

    @property
    def from_guest(self) -> Key:
        """The connection that a packet of the guest's belongs to."""
        return Key(self.destination, self.destination_port, self.source_port)
