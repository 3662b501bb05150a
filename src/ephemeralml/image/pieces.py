"""What an image is made of: content in memory, or the path of a file that is read in blocks."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from ephemeralml.errors import ImageError
from ephemeralml.image.layout import MAX_CMDLINE_BYTES

Piece: TypeAlias = "bytes | str | os.PathLike[str]"
"""Bytes are the content itself; a text or path-like is the path of a file."""

BLOCK_BYTES: Final = 1 << 20


@contextmanager
def open_piece(piece: Piece) -> Iterator[BinaryIO]:
    """The piece from its start. An OSError in the block that names no file gets the piece's name."""
    if isinstance(piece, bytes):
        yield io.BytesIO(piece)
        return
    try:
        with Path(piece).open("rb") as file:
            yield file
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, os.fspath(piece)) from error
        raise


def blocks(piece: Piece) -> Iterator[bytes]:
    """The piece in blocks of at most 1 MiB. Raises OSError with the file's name."""
    with open_piece(piece) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def read_small(piece: Piece, *, limit: int, what: str, code: str) -> bytes:
    """The whole of a piece of at most `limit` bytes. Raises OSError, or `ImageError` with `code` for a larger one."""
    with open_piece(piece) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ImageError(f"{what} has more than {limit} bytes", code=code)
    return data


def command_line(cmdline: str | bytes) -> bytes:
    """The kernel's command line as bytes. Raises `ImageError` (``image.cmdline``): zero bytes, too long, no UTF-8."""
    try:
        data = cmdline.encode() if isinstance(cmdline, str) else cmdline
    except UnicodeEncodeError:
        raise ImageError("the kernel's command line is not valid Unicode", code="image.cmdline") from None
    if b"\0" in data or len(data) > MAX_CMDLINE_BYTES:
        raise ImageError(
            f"the kernel's command line must have no zero byte and at most {MAX_CMDLINE_BYTES} bytes",
            code="image.cmdline",
        )
    return data
