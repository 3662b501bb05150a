"""The security module: the one interface to whatever vouches for this enclave.

Requests and answers are the NSM's own CBOR (aws-nitro-enclaves-nsm-api, ``src/api/mod.rs``), whatever carries them.
`SocketSecurityModule` sends them over an inherited socket to a software NSM outside this process; its evidence verifies
only under that module's development root. `NitroSecurityModule` (``nsm.py``) is the device of a Nitro enclave.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

from ephemeralml.attestation import AttestationDocument
from ephemeralml.codec import cbor
from ephemeralml.enclave.clock import Clock
from ephemeralml.errors import AttestationError, CodecError, EphemeralMLError, TransportError
from ephemeralml.session.blocking import read_exactly, write_all

# Sizes of the driver's buffers (include/uapi/linux/nsm.h).
REQUEST_BYTES: Final = 0x1000
RESPONSE_BYTES: Final = 0x3000

_LENGTH = struct.Struct(">I")
_PCR_BYTES = 48
# ErrorCode of the NSM's API → the end of our code, and what it means.
_REFUSALS: Final = {
    "InvalidArgument": ("invalid_argument", "an argument is not valid"),
    "InvalidIndex": ("invalid_index", "it has no such PCR"),
    "InvalidResponse": ("invalid_response", "its own answer does not belong to the request"),
    "ReadOnlyIndex": ("read_only_index", "the PCR is locked: something wrote it before, restart the enclave"),
    "InvalidOperation": ("invalid_operation", "it does not know the operation"),
    "BufferTooSmall": ("buffer_too_small", "its answer does not fit the buffer"),
    "InputTooLarge": ("input_too_large", "a field is longer than it takes"),
    "InternalError": ("internal_error", "it failed inside; restart the enclave"),
}


class SecurityModuleError(EphemeralMLError):
    """The security module refused or broke; an enclave cannot run without it."""


class SecurityModule(ABC):
    """What boot and sessions ask of the platform. Thread-safe.

    `clock` is held against the module's time at each document. Every method raises `SecurityModuleError`.
    """

    def __init__(self) -> None:
        self.clock: Final = Clock()

    @abstractmethod
    def _exchange(self, request: bytes) -> bytes:
        """Carry one request of at most `REQUEST_BYTES` to the module; its answer, at most `RESPONSE_BYTES`."""

    def attest(
        self, *, user_data: bytes | None = None, nonce: bytes | None = None, public_key: bytes | None = None
    ) -> bytes:
        """A fresh attestation document carrying the three fields.

        Raises `PlatformError` when its time and the system's clock are too far apart, or it took too long to tell.
        """
        asked = time.monotonic()
        answer = self._ask("Attestation", user_data=user_data, nonce=nonce, public_key=public_key)
        # In this order, so that a pause between the two only widens the while.
        system, answered = time.time(), time.monotonic()
        document = _bytes(answer, "document")
        try:
            stamp = AttestationDocument.parse(document).timestamp
        except AttestationError as error:
            raise _failed(f"a document that is none ({error.code})") from error
        self.clock.compare(stamp, asked=asked, answered=answered, system=system)
        return document

    def pcr(self, index: int) -> bytes:
        """The 48 bytes of a PCR."""
        value = _bytes(self._ask("DescribePCR", index=index), "data")
        if len(value) != _PCR_BYTES:
            raise _failed(f"a PCR of {len(value)} bytes")
        return value

    def random(self) -> bytes:
        """Random bytes, as many as the module gives at once (256)."""
        return _bytes(self._ask("GetRandom"), "random")

    def extend(self, index: int, data: bytes) -> bytes:
        """Extend a PCR with `data` and return its new value: SHA-384(old value ‖ data)."""
        return _bytes(self._ask("ExtendPCR", index=index, data=data), "data")

    def lock(self, *, below: int) -> None:
        """Make every PCR of a lower index immutable until the enclave ends; documents carry locked PCRs only."""
        self._ask("LockPCRs", range=below)

    def _ask(self, operation: str, **arguments: object) -> Mapping[int | str, cbor.Value]:
        request = cbor.encode({operation: arguments} if arguments else operation)
        if len(request) > REQUEST_BYTES:
            raise _failed(f"a request of {len(request)} bytes")
        try:
            value = cbor.decode_foreign(self._exchange(request), limit=RESPONSE_BYTES)
        except CodecError as error:
            raise _failed(str(error)) from error
        # What has nothing to say answers with its name.
        if value == operation:
            return {}
        if isinstance(value, dict):
            if isinstance(refusal := value.get("Error"), str) and refusal in _REFUSALS:
                code, meaning = _REFUSALS[refusal]
                raise SecurityModuleError(
                    f"the security module refuses {operation}: {meaning} ({refusal})", code=f"nsm.{code}"
                )
            if isinstance(answer := value.get(operation), dict):
                return answer
        raise _failed(f"an answer that is not {operation}")


class SocketSecurityModule(SecurityModule):
    """A software NSM at the other end of `connection`: a length, then a CBOR request; the same back."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._turn = threading.Lock()

    def _exchange(self, request: bytes) -> bytes:
        try:
            with self._turn:
                write_all(self._connection, _LENGTH.pack(len(request)) + request)
                (length,) = _LENGTH.unpack(read_exactly(self._connection, _LENGTH.size))
                if length > RESPONSE_BYTES:
                    raise _failed(f"an answer of {length} bytes")
                return read_exactly(self._connection, length)
        except TransportError as error:
            raise _failed(str(error)) from error


def _bytes(answer: Mapping[int | str, cbor.Value], key: str) -> bytes:
    value = answer.get(key)
    if not isinstance(value, bytes) or not value:
        raise _failed(f"an answer without {key}")
    return value


def _failed(why: str) -> SecurityModuleError:
    return SecurityModuleError(f"the security module failed: {why}", code="nsm.failed")
