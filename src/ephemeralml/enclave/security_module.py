"""The security module: the one interface to whatever vouches for this enclave.

`SocketSecurityModule` speaks the NSM's own CBOR requests (aws-nitro-enclaves-nsm-api) over an inherited socket to a
software NSM outside this process; its evidence verifies only under that module's development root.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Protocol

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, EphemeralMLError, TransportError
from ephemeralml.session.blocking import read_exactly, write_all

# Sizes of the driver's buffers (Linux drivers/misc/nsm.c).
REQUEST_BYTES = 0x1000
RESPONSE_BYTES = 0x3000
_LENGTH = struct.Struct(">I")
_PCR_BYTES = 48


class SecurityModule(Protocol):
    """What boot and sessions ask of the platform."""

    @property
    def platform(self) -> str:
        """``nitro`` or ``local``."""

    def attest(
        self, *, user_data: bytes | None = None, nonce: bytes | None = None, public_key: bytes | None = None
    ) -> bytes:
        """A fresh attestation document carrying the three fields."""

    def pcr(self, index: int) -> bytes:
        """The 48 bytes of a PCR."""

    def random(self) -> bytes:
        """Random bytes of the module's own choice of length, at most 256."""

    def extend(self, index: int, data: bytes) -> bytes:
        """Extend a PCR and return its new value."""

    def lock(self, index: int) -> None:
        """Make a PCR immutable until the enclave ends."""


class SecurityModuleError(EphemeralMLError):
    """The security module refused or broke; an enclave cannot run without it."""


class SocketSecurityModule:
    """A software NSM at the other end of `connection`: a length, then a CBOR request; the same back. Thread-safe."""

    platform = "local"

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def _exchange(self, request: object) -> cbor.Value:
        data = cbor.encode(request)
        if len(data) > REQUEST_BYTES:
            raise _failed(f"a request of {len(data)} bytes")
        try:
            with self._lock:
                write_all(self._connection, _LENGTH.pack(len(data)) + data)
                (length,) = _LENGTH.unpack(read_exactly(self._connection, _LENGTH.size))
                if length > RESPONSE_BYTES:
                    raise _failed(f"an answer of {length} bytes")
                answer = read_exactly(self._connection, length)
            value = cbor.decode_foreign(answer, limit=RESPONSE_BYTES)
        except (TransportError, CodecError) as error:
            raise _failed(str(error)) from error
        if isinstance(value, dict) and isinstance(value.get("Error"), str):
            raise _failed(str(value["Error"]))
        return value

    def _ask(self, request: object, name: str) -> dict[int | str, cbor.Value]:
        value = self._exchange(request)
        answer = value.get(name) if isinstance(value, dict) else None
        if not isinstance(answer, dict):
            raise _failed(f"an answer that is not {name}")
        return answer

    def attest(
        self, *, user_data: bytes | None = None, nonce: bytes | None = None, public_key: bytes | None = None
    ) -> bytes:
        """See `SecurityModule`. Raises `SecurityModuleError`, as every method here."""
        request = {"Attestation": {"user_data": user_data, "nonce": nonce, "public_key": public_key}}
        return _bytes(self._ask(request, "Attestation"), "document")

    def pcr(self, index: int) -> bytes:
        """See `SecurityModule`."""
        value = _bytes(self._ask({"DescribePCR": {"index": index}}, "DescribePCR"), "data")
        if len(value) != _PCR_BYTES:
            raise _failed(f"a PCR of {len(value)} bytes")
        return value

    def random(self) -> bytes:
        """See `SecurityModule`."""
        return _bytes(self._ask("GetRandom", "GetRandom"), "random")

    def extend(self, index: int, data: bytes) -> bytes:
        """See `SecurityModule`."""
        return _bytes(self._ask({"ExtendPCR": {"index": index, "data": data}}, "ExtendPCR"), "data")

    def lock(self, index: int) -> None:
        """See `SecurityModule`."""
        if self._exchange({"LockPCR": {"index": index}}) != "LockPCR":
            raise _failed("an answer that is not LockPCR")


def _bytes(answer: dict[int | str, cbor.Value], key: str) -> bytes:
    value = answer.get(key)
    if not isinstance(value, bytes) or not value:
        raise _failed(f"an answer without {key}")
    return value


def _failed(why: str) -> SecurityModuleError:
    return SecurityModuleError(f"the security module failed: {why}", code="nsm.failed")
