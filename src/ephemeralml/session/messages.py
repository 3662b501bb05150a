"""What travels inside the records, as deterministic CBOR.

A receipt's request_hash and response_hash are the SHA-256 of the `body` of `Request` and `Response`: both bodies carry
a random salt, so that the hash of a short text cannot be brute-forced from the receipt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, SessionError
from ephemeralml.session.limits import RECORD_FRAME_BYTES
from ephemeralml.texts import printable

SALT_BYTES = 16
NONCE_BYTES = 32
HASH_BYTES = 32


def _malformed(what: str) -> NoReturn:
    raise SessionError(f"the peer sent a malformed {what}", code="message.malformed")


def _read(data: bytes, keys: set[str], what: str) -> dict[int | str, cbor.Value]:
    try:
        value = cbor.decode(data, limit=RECORD_FRAME_BYTES)
    except CodecError:
        _malformed(what)
    if not isinstance(value, dict) or set(value) != keys:
        _malformed(what)
    return value


def _identifier(value: cbor.Value, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        _malformed(what)
    return value


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """The body of a request: texts, the nonce the receipt must carry, and the hash of the receipt before it."""

    texts: tuple[str, ...] = field(repr=False)
    nonce: bytes
    salt: bytes
    previous: bytes | None

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return cbor.encode(
            {"texts": list(self.texts), "nonce": self.nonce, "salt": self.salt, "previous": self.previous}
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> EmbedRequest:
        """Raises `SessionError`."""
        value = _read(body, {"texts", "nonce", "salt", "previous"}, "request")
        texts, nonce, salt, previous = value["texts"], value["nonce"], value["salt"], value["previous"]
        if not isinstance(texts, list) or not isinstance(nonce, bytes) or not isinstance(salt, bytes):
            _malformed("request")
        if previous is not None and (not isinstance(previous, bytes) or len(previous) != HASH_BYTES):
            _malformed("request")
        if len(nonce) != NONCE_BYTES or len(salt) != SALT_BYTES:
            _malformed("request")
        strings = tuple(text for text in texts if isinstance(text, str))
        if len(strings) != len(texts):
            _malformed("request")
        return cls(strings, nonce, salt, previous)


@dataclass(frozen=True, slots=True)
class EmbedResponse:
    """The body of an answer: `vectors` float32 (n, dimension), and the tokens the model read for them."""

    vectors: np.ndarray = field(repr=False)
    tokens: int
    salt: bytes

    def to_bytes(self) -> bytes:
        """Deterministic CBOR; the vectors as raw little-endian float32, row by row."""
        count, dimension = self.vectors.shape
        return cbor.encode(
            {
                "vectors": self.vectors.astype("<f4", copy=False).tobytes(),
                "count": count,
                "dimension": dimension,
                "tokens": self.tokens,
                "salt": self.salt,
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> EmbedResponse:
        """Raises `SessionError`."""
        value = _read(body, {"vectors", "count", "dimension", "tokens", "salt"}, "response")
        raw, salt = value["vectors"], value["salt"]
        count = _identifier(value["count"], "response")
        dimension = _identifier(value["dimension"], "response")
        tokens = _identifier(value["tokens"], "response")
        if not isinstance(raw, bytes) or not isinstance(salt, bytes) or len(salt) != SALT_BYTES:
            _malformed("response")
        if len(raw) != 4 * count * dimension:
            _malformed("response")
        vectors = np.frombuffer(raw, dtype="<f4").reshape(count, dimension).astype(np.float32)
        return cls(vectors, tokens, salt)


@dataclass(frozen=True, slots=True)
class Request:
    """A numbered request; ids let many be in flight and answers come in any order."""

    id: int
    body: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return cbor.encode({"id": self.id, "body": self.body})

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        """Raises `SessionError`."""
        value = _read(data, {"id", "body"}, "request")
        body = value["body"]
        if not isinstance(body, bytes):
            _malformed("request")
        return cls(_identifier(value["id"], "request"), body)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request, and the receipt for it."""

    id: int
    body: bytes = field(repr=False)
    receipt: bytes

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return cbor.encode({"id": self.id, "body": self.body, "receipt": self.receipt})

    @classmethod
    def from_bytes(cls, data: bytes) -> Response:
        """Raises `SessionError`."""
        value = _read(data, {"id", "body", "receipt"}, "response")
        body, receipt = value["body"], value["receipt"]
        if not isinstance(body, bytes) or not isinstance(receipt, bytes):
            _malformed("response")
        return cls(_identifier(value["id"], "response"), body, receipt)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not answered; `retry_after_ms` says that, and when, it may be sent again."""

    id: int
    code: str
    message: str
    retry_after_ms: int | None

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return cbor.encode(
            {"id": self.id, "code": self.code, "message": self.message, "retry_after_ms": self.retry_after_ms}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Refusal:
        """Raises `SessionError`."""
        value = _read(data, {"id", "code", "message", "retry_after_ms"}, "refusal")
        code, message, retry = value["code"], value["message"], value["retry_after_ms"]
        if not isinstance(code, str) or not isinstance(message, str):
            _malformed("refusal")
        return cls(
            _identifier(value["id"], "refusal"),
            code,
            message,
            None if retry is None else _identifier(retry, "refusal"),
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """A code and a sentence: the body of ALERT (readable by all, trusted by nobody) and of CLOSE (sealed)."""

    code: str
    message: str

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return cbor.encode({"code": self.code, "message": self.message})

    @classmethod
    def from_bytes(cls, data: bytes) -> Notice:
        """Raises `SessionError`; text is cut to what an error line can hold and stripped of control characters."""
        value = _read(data, {"code", "message"}, "notice")
        code, message = value["code"], value["message"]
        if not isinstance(code, str) or not isinstance(message, str):
            _malformed("notice")
        return cls(printable(code, 64), printable(message, 400))
