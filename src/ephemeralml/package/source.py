"""Where a package's bytes come from. Whoever serves them is trusted with nothing: they are ciphertext and signed."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from ephemeralml.errors import PackageError
from ephemeralml.package import stream
from ephemeralml.package.manifest import MAX_ARTIFACT_SIZE, MAX_MANIFEST_SIZE, is_artifact_name

MANIFEST_FILE: Final = "manifest.cose"
ARTIFACT_SUFFIX: Final = ".enc"
MAX_CIPHERTEXT_SIZE: Final = stream.ciphertext_size(MAX_ARTIFACT_SIZE, stream.MIN_CHUNK_SIZE)

Reader: TypeAlias = Callable[[int], bytes | memoryview]
"""``read(n)``: the next 1 to `n` bytes, fewer as they come, and no bytes only at the end."""


class ArtifactSource(Protocol):
    """A package as files, objects or a feed over a socket."""

    def manifest(self) -> bytes:
        """The signed manifest, not verified."""
        ...

    def open(self, name: str) -> AbstractContextManager[Reader]:
        """The encrypted artifact `name`, from its start."""
        ...


class FolderSource:
    """A package in a folder, as `pack` writes it. Every method raises `PackageError` and no `OSError`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def manifest(self) -> bytes:
        """The signed manifest, not verified: 32 KiB at most (``manifest.too_large``, ``package.missing``)."""
        with self._open_file(MANIFEST_FILE, limit=MAX_MANIFEST_SIZE, too_large="manifest.too_large") as read:
            # A file may grow after its size was checked.
            signed = read(MAX_MANIFEST_SIZE + 1)
        return bytes(signed)

    def open(self, name: str) -> AbstractContextManager[Reader]:
        """The encrypted artifact `name`. Raises ``artifact.name``, ``package.missing`` or ``artifact.too_large``."""
        if not is_artifact_name(name):
            raise PackageError("that is not the name of an artifact", code="artifact.name")
        return self._open_file(name + ARTIFACT_SUFFIX, limit=MAX_CIPHERTEXT_SIZE, too_large="artifact.too_large")

    @contextmanager
    def _open_file(self, name: str, *, limit: int, too_large: str) -> Iterator[Reader]:
        path = self._folder / name
        try:
            # Unbuffered: readers ask for large pieces.
            file = io.FileIO(path, opener=_open_nonblocking)
        except FileNotFoundError:
            here = self._folder.is_dir()
            missing = f"{path} is missing: the package is incomplete" if here else f"no package at {self._folder}"
            raise PackageError(missing, code="package.missing") from None
        except OSError as error:
            raise _unreadable(path, error) from error
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PackageError(f"{path} is not a regular file", code="package.unreadable")
            if status.st_size > limit:
                raise PackageError(f"{path} is larger than {limit} bytes", code=too_large)

            def read(size: int) -> bytes:
                try:
                    return file.read(size)
                except OSError as error:
                    raise _unreadable(path, error) from error

            yield read


def _open_nonblocking(path: str, flags: int) -> int:
    """Opening a FIFO someone put there must not hang."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, error: OSError) -> PackageError:
    return PackageError(f"cannot read {path}: {error.strerror}", code="package.unreadable")
