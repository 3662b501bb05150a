"""A package's folder appears whole, on the disk and under its name, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ephemeralml.errors import PackageError

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EXISTS: Final = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` to write into, which takes that name at the end of the block.

    Folders are synced here, files by the block (`sync`). Whatever ends the block early removes the hidden folder.
    Raises `PackageError` for an OSError of the block or its own: ``package.exists``, ``.no_space`` or ``.io``.
    """
    work = target.with_name(f".ephemeralml-{secrets.token_hex(8)}.partial")
    try:
        work.mkdir()
        yield work
        for directory in {work, *(path.parent for path in work.rglob("*"))}:
            _sync_directory(directory)
        work = work.rename(target)
        _sync_directory(target.parent)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError):
            raise _explain(error, target) from error
        raise


def check_free(target: Path) -> None:
    """Raises `PackageError` (``package.exists``) when something, be it a dangling link, is at `target`."""
    if os.path.lexists(target):
        raise _exists(target)


def sync(file: IO[bytes]) -> None:
    """Put what was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(target: Path) -> PackageError:
    return PackageError(f"{target} exists; choose a new folder or remove it first", code="package.exists")


def _explain(error: OSError, target: Path) -> PackageError:
    if error.errno in _NO_SPACE:
        return PackageError(
            f"no space left for {target}: {error.strerror}; nothing was written, free some and try again",
            code="package.no_space",
        )
    if error.errno in _EXISTS and os.path.lexists(target):
        return _exists(target)
    return PackageError(f"writing {target} failed: {error.strerror}; nothing was written", code="package.io")
