"""The plain protocol between an enclave and its own host: key release, artifacts, state, reports of its work.

The host is trusted with none of it: a manifest counts once its signature verifies, a key once it opens the package, an
artifact once its last chunk did. Each exchange is one connection: a request frame, then an answer;
after the answer to `TUNNEL` the connection carries the enclave's TLS to KMS.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from ephemeralml.codec import cbor
from ephemeralml.errors import TransportError

MESSAGE_BYTES = 64 * 1024


class Ask(IntEnum):
    """What the enclave asks of its host."""

    MANIFEST = 1
    ARTIFACT = 2
    KEY = 3
    STATE = 4
    TUNNEL = 5
    REPORT = 6


def malformed(what: str) -> NoReturn:
    """Raise the `TransportError` for a peer that does not follow this protocol."""
    raise TransportError(f"the other end of the host link sent a malformed {what}", code="hostlink.malformed")


@dataclass(frozen=True, slots=True)
class KeyAsk:
    """What the broker needs for KMS Decrypt with Recipient."""

    key_arn: str
    wrapped_dek: bytes
    encryption_context: dict[str, str]
    document: bytes

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return cbor.encode(
            {
                "ask": int(Ask.KEY),
                "key_arn": self.key_arn,
                "wrapped_dek": self.wrapped_dek,
                "encryption_context": self.encryption_context,
                "document": self.document,
            }
        )

    @classmethod
    def from_map(cls, value: dict[int | str, cbor.Value]) -> KeyAsk:
        """Raises `TransportError`."""
        if set(value) != {"ask", "key_arn", "wrapped_dek", "encryption_context", "document"}:
            malformed("key request")
        arn, wrapped, document = value["key_arn"], value["wrapped_dek"], value["document"]
        context = value["encryption_context"]
        if not isinstance(arn, str) or not isinstance(wrapped, bytes) or not isinstance(document, bytes):
            malformed("key request")
        if not isinstance(context, dict):
            malformed("key request")
        pairs = {key: item for key, item in context.items() if isinstance(key, str) and isinstance(item, str)}
        if len(pairs) != len(context):
            malformed("key request")
        return cls(arn, wrapped, pairs, document)


def success(**values: cbor.Value) -> bytes:
    """An answer that carries `values`."""
    return cbor.encode({"ok": values})


def failure(code: str, message: str) -> bytes:
    """An answer that carries an error."""
    return cbor.encode({"error": {"code": code, "message": message}})
