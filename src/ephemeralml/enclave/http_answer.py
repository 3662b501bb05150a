"""One answer of HTTP/1.1 (RFC 9112) in the form KMS gives: a Content-Length, no transfer coding, nothing after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ephemeralml.session.kms_errors import bad_answer

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 64 * 1024

_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
# No white space before the colon, and none at a line's start, which would continue the line before. The blanks
# around a value are stripped afterwards: repetitions that may match the same ones take cubic time.
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,6}")


def read_answer(read: Callable[[int], bytes]) -> tuple[int, bytes]:
    """Status and body. ``read(n)`` gives the next 1 to `n` bytes and raises when there are none.

    Raises `KeyReleaseError` (``kms.answer``) for any other form, and for a head or a body above its cap.
    """
    data = bytearray()
    while (end := data.find(_END)) < 0:
        if len(data) >= MAX_HEAD_BYTES:
            raise bad_answer(f"its header is larger than {MAX_HEAD_BYTES} bytes")
        data += read(MAX_HEAD_BYTES - len(data))
    status, length = _head(bytes(data[:end]))
    body = data[end + len(_END) :]
    while len(body) < length:
        body += read(length - len(body))
    if len(body) > length:
        raise bad_answer("it is longer than it says")
    return status, bytes(body)


def _head(head: bytes) -> tuple[int, int]:
    """The status, and how many bytes the body has."""
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    fields = [_FIELD.fullmatch(line) for line in lines]
    if status is None or None in fields:
        raise bad_answer("it is not an answer of HTTP/1.1")
    pairs = [(field[1].lower(), field[2].strip(b"\t ")) for field in fields if field is not None]
    lengths = [value for name, value in pairs if name == b"content-length"]
    # Two ways to tell a body's end, or two lengths, and it is not clear where the answer stops (RFC 9112 section 6.3).
    if len(lengths) != 1 or _LENGTH.fullmatch(lengths[0]) is None or b"transfer-encoding" in dict(pairs):
        raise bad_answer("it does not say its length, once and in bytes")
    length = int(lengths[0])
    if length > MAX_BODY_BYTES:
        raise bad_answer(f"its body is larger than {MAX_BODY_BYTES} bytes")
    return int(status[1]), length
