"""What a long run has so far: one record for each answered request, in a file that a killed run goes on with."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from ephemeralml.errors import ConfigurationError

_MAGIC: Final = b"ephemeralml-embed-journal-1\n"
_LENGTHS = struct.Struct("<QQ")
_DIGEST_BYTES: Final = 32


class Journal:
    """Records of vectors and a bundle, in order, each with its checksum: one that is not whole ends the file.

    `identity` says what run it belongs to. A context manager; `remove` when its content is elsewhere.
    """

    def __init__(self, path: Path, *, identity: bytes) -> None:
        """Open or create the file. Raises OSError, and `ConfigurationError`: ``embed.running`` when another process
        writes it, ``embed.resume`` when it is of another run.
        """
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")
        try:
            self._lock()
            self._start = self._begin(_MAGIC + identity)
            self.records, self._end = 0, self._start
            for vectors, bundle in self:
                self.records += 1
                self._end += _LENGTHS.size + len(vectors) + len(bundle) + _DIGEST_BYTES
            os.ftruncate(self._file.fileno(), self._end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another run writes {self.path}; wait for it", code="embed.running") from None

    def _begin(self, head: bytes) -> int:
        found = self._file.read(len(head))
        if found != head:
            # Shorter: it was not even begun.
            if not head.startswith(found):
                raise ConfigurationError(
                    f"{self.path} is of other texts, another model or other options; remove it to begin anew",
                    code="embed.resume",
                )
            self._write(head, at=0)
        return len(head)

    def append(self, vectors: bytes, bundle: bytes) -> None:
        """Add a record; a process that is killed afterwards finds it again. Raises OSError."""
        record = _LENGTHS.pack(len(vectors), len(bundle)) + vectors + bundle
        self._write(record + sha256(record).digest(), at=self._end)
        self._end += len(record) + _DIGEST_BYTES
        self.records += 1

    def _write(self, data: bytes, *, at: int) -> None:
        left = memoryview(data)
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(self._start)
        while len(head := self._file.read(_LENGTHS.size)) == _LENGTHS.size:
            lengths = _LENGTHS.unpack(head)
            # Never more than is there, whatever a damaged head announces.
            if sum(lengths) + _DIGEST_BYTES > size - self._file.tell():
                return
            vectors, bundle = (self._file.read(length) for length in lengths)
            if self._file.read(_DIGEST_BYTES) != sha256(head + vectors + bundle).digest():
                return
            yield vectors, bundle

    def remove(self) -> None:
        """Remove the file; the journal is not used afterwards. Raises OSError."""
        self.path.unlink()
