"""The packets of a virtio socket (virtio 1.3, section 5.10.6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

_HEADER: Final = struct.Struct("<QQIIIHHIII")
HEADER_BYTES: Final = _HEADER.size
STREAM: Final = 1
"""VIRTIO_VSOCK_TYPE_STREAM."""

SHUTDOWN_RECEIVE, SHUTDOWN_SEND = 1, 2


class Operation(IntEnum):
    """VIRTIO_VSOCK_OP_*."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet's header: `credit` is how many bytes the sender takes in all, `forwarded` how many it has passed on."""

    source: tuple[int, int]
    target: tuple[int, int]
    length: int = 0
    kind: int = STREAM
    operation: int
    flags: int = 0
    credit: int = 0
    forwarded: int = 0

    @classmethod
    def parse(cls, header: bytes) -> Self:
        """Raises struct.error for another length."""
        source, target, source_port, target_port, length, kind, operation, flags, credit, forwarded = _HEADER.unpack(
            header
        )
        return cls(
            source=(source, source_port),
            target=(target, target_port),
            length=length,
            kind=kind,
            operation=operation,
            flags=flags,
            credit=credit,
            forwarded=forwarded,
        )

    def to_bytes(self) -> bytes:
        """The 44 bytes."""
        return _HEADER.pack(
            self.source[0],
            self.target[0],
            self.source[1],
            self.target[1],
            self.length,
            self.kind,
            self.operation,
            self.flags,
            self.credit,
            self.forwarded,
        )
