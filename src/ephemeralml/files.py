"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write (and read) beside the place, moved there at the end of the block, or removed if it raises.

    A reader never meets half a file. Raises OSError naming `path`, or naming what the block was about.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with partial.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        # One of write(2) names no file, and nobody knows the partial one.
        if isinstance(error, OSError) and error.filename in {None, str(partial)}:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a small file whole or not at all, as `whole_file` does. Raises OSError naming `path`."""
    with whole_file(path) as file:
        file.write(content)
