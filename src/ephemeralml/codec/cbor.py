"""CBOR in the subset every format here uses: integers, byte and text strings, arrays, maps, booleans, null.

`encode` and `decode` speak core deterministic CBOR (RFC 8949 section 4.2.1) and accept nothing else; one value has
one encoding. `decode_foreign` reads well-formed CBOR written by others (AWS changed its maps to indefinite length in
2025), still without tags, duplicate keys, trailing bytes or unbounded nesting.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import cbor2

from ephemeralml.errors import CodecError

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[int | str, Value] | None"

MAX_DEPTH = 16
MAX_BYTES = 16 * 1024 * 1024
# Decoding costs by the item, and integer keys chosen to collide cost their square.
MAX_ITEMS = 4096

# Left to itself, cbor2 asks an abstract base class what a list is; an exception that a signal's handler raises in there
# (Ctrl-C) is lost, and printed with the list: with the texts.
_ENCODERS: dict[type, Callable[[cbor2.CBOREncoder, Any], None]] = {
    list: lambda encoder, items: encoder.encode_array(items)
}

_SCALARS = frozenset({bytes, str, bool, type(None)})
_UINT64 = 2**64


def _refuse(code: str, message: str) -> NoReturn:
    raise CodecError(message, code=f"cbor.{code}")


class _NoTags(dict[int, Callable[[Any, bool], Any]]):
    """Answers for every tag number, so that no tag reaches cbor2's own interpretations (dates, regexes, references).

    A dict, as in `_ENCODERS`: of another mapping, cbor2 would ask an abstract base class.
    """

    def __missing__(self, tag: int) -> Callable[[Any, bool], Any]:
        return lambda *_: _refuse("tag", f"tag {tag} is not allowed")

    def __len__(self) -> int:
        return 1


_NO_TAGS = _NoTags()


def _order(key: object) -> tuple[int, int, bytes]:
    """Sorts map keys as their encodings sort byte by byte: by major type, then length or number, then content."""
    if type(key) is int:
        return (0, key, b"") if key >= 0 else (1, ~key, b"")
    if type(key) is not str:
        _refuse("key", "map keys are integers or text")
    content = key.encode()
    return 3, len(content), content


def _normal(value: object, depth: int) -> Value:
    """The value with map keys in bytewise order of their encodings; refuses types and depths outside the subset."""
    kind = type(value)
    if kind in _SCALARS:
        return value  # type: ignore[return-value]
    if kind is int:
        if not -_UINT64 <= value < _UINT64:  # type: ignore[operator]
            _refuse("integer", "integer outside 64 bits")
        return value  # type: ignore[return-value]
    if depth >= MAX_DEPTH:
        _refuse("depth", f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [_normal(item, depth + 1) for item in value]  # type: ignore[attr-defined]
    if kind is dict:
        keys: list[int | str] = sorted(value, key=_order)  # type: ignore[call-overload]
        return {_normal(key, depth + 1): _normal(value[key], depth + 1) for key in keys}  # type: ignore[index, misc]
    _refuse("type", f"{kind.__name__} is not part of the subset")


def encode(value: object) -> bytes:
    """Deterministic encoding. Raises `CodecError` for a type, integer or depth outside the subset."""
    try:
        return cbor2.dumps(_normal(value, 0), encoders=_ENCODERS)
    except UnicodeError:
        _refuse("text", "text is not valid Unicode")


def _read(data: bytes, limit: int, *, indefinite: bool, max_items: int = MAX_ITEMS) -> object:
    if len(data) > limit:
        _refuse("size", f"{len(data)} bytes, more than the {limit} allowed")
    _count_items(data, max_items)
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            semantic_decoders=_NO_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=indefinite,
            allow_duplicate_keys=False,
        ).decode()
    # A parser's own failure, whatever its type, is a refusal of these bytes; its words may quote them.
    except Exception as error:
        if isinstance(error.__cause__, CodecError):
            raise error.__cause__ from None
        raise CodecError("not well-formed CBOR", code="cbor.malformed") from error
    if stream.tell() != len(data):
        _refuse("trailing", f"{len(data) - stream.tell()} bytes after the end")
    return value


def _count_items(data: bytes, max_items: int) -> None:
    """Refuse more than `max_items` data items, by their heads alone (RFC 8949 section 3), before any is built."""
    if len(data) <= max_items:
        return
    position = 0
    for _ in range(max_items + 1):
        if position >= len(data):
            return
        major, argument, position = _head(data, position)
        if major in {2, 3}:
            position += argument
    _refuse("items", f"more than {max_items} items")


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Major type and argument of the head at `position`, and where it ends; an indefinite length counts as 0."""
    major, argument = data[position] >> 5, data[position] & 31
    position += 1
    if 24 <= argument <= 27:
        size = 1 << (argument - 24)
        argument = int.from_bytes(data[position : position + size])
        position += size
    elif argument > 27:
        argument = 0
    return major, argument, position


def first_item(data: bytes) -> int:
    """How many bytes the first item of a CBOR sequence (RFC 8742) takes, by heads alone: at most all of them.

    Whether it is well-formed, and deterministic, is `decode`'s to say.
    """
    position, left = 0, 1
    # Each turn takes a byte at least, whatever a head announces.
    while left and position < len(data):
        major, argument, position = _head(data, position)
        left += {4: argument, 5: 2 * argument, 6: 1}.get(major, 0) - 1
        if major in {2, 3}:
            position += argument
    return min(position, len(data))


def decode(data: bytes, *, limit: int = MAX_BYTES) -> Value:
    """Decode deterministic CBOR of at most `limit` bytes. Raises `CodecError` for anything `encode` would not write."""
    value = _normal(_read(data, limit, indefinite=False), 0)
    # One comparison covers non-minimal lengths, key order and every other second spelling.
    if cbor2.dumps(value, encoders=_ENCODERS) != data:
        _refuse("order", "not the deterministic encoding of its value")
    return value


def decode_foreign(data: bytes, *, limit: int = MAX_BYTES, max_items: int = MAX_ITEMS) -> Value:
    """Decode well-formed CBOR of at most `limit` bytes that others wrote, indefinite lengths included.

    `max_items` is for formats that spell byte strings as arrays of numbers, one item a byte.
    """
    return _normal(_read(data, limit, indefinite=True, max_items=max_items), 0)
