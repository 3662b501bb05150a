"""A ramdisk: a cpio archive in the new ASCII format (Linux, early-userspace/buffer-format.rst).

Everything belongs to root and has no time, and entries come in the order of their names: the same files give the same
bytes, whoever packs them, wherever and when.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Self

from ephemeralml.errors import ImageError
from ephemeralml.image.pieces import Piece, blocks

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"
# Sizes are eight hex digits; names, PATH_MAX of Linux with their zero byte.
_MAX_BYTES: Final = 0xFFFFFFFF
_MAX_NAME: Final = 4096
_ALIGNMENT: Final = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or symbolic link at `path` (no leading slash), with its type and permissions in `mode`."""

    path: str
    mode: int
    content: Piece = b""

    @classmethod
    def folder(cls, path: str) -> Self:
        """A folder that only root may change."""
        return cls(path, stat.S_IFDIR | 0o755)

    @classmethod
    def file(cls, path: str, content: Piece, *, executable: bool = False) -> Self:
        """A file that nobody but root may change."""
        return cls(path, stat.S_IFREG | (0o755 if executable else 0o644), content)

    @classmethod
    def link(cls, path: str, target: str) -> Self:
        """A symbolic link."""
        return cls(path, stat.S_IFLNK | 0o777, target.encode())

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return len(self.content) if isinstance(self.content, bytes) else Path(self.content).stat().st_size


def write(out: BinaryIO, entries: Sequence[Entry]) -> None:
    """Write an archive of `entries`, and of the folders they lie in.

    Raises OSError and `ImageError` (``image.ramdisk``): a name twice, one that leaves the archive, a file too large.
    """
    everything = {entry.path: entry for entry in entries}
    if len(everything) != len(entries):
        raise ImageError("two files of a ramdisk have one name", code="image.ramdisk")
    for path in list(everything):
        for parent in PurePosixPath(path).parents[:-1]:
            everything.setdefault(str(parent), Entry.folder(str(parent)))
    for number, (_, entry) in enumerate(sorted(everything.items()), start=1):
        _write(out, number, entry)
    _write(out, 0, Entry(_TRAILER, 0))


def _write(out: BinaryIO, number: int, entry: Entry) -> None:
    name = entry.path.encode() + b"\0"
    size = entry.size
    if {"", ".", ".."} & set(entry.path.split("/")) or len(name) > _MAX_NAME or b"\0" in name[:-1] or size > _MAX_BYTES:
        raise ImageError(f"{entry.path!r} cannot be in a ramdisk: its name or its size", code="image.ramdisk")
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # Inode, mode, owner, group, links, time, size, device of the file (two), device it is (two), name, no checksum.
    fields = (number, entry.mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    out.write(head + _padding(len(head)))
    written = 0
    for block in blocks(entry.content):
        out.write(block)
        written += len(block)
    if written != size:
        raise ImageError(f"{fspath(entry.content)!r} changed while it was read", code="image.ramdisk")
    out.write(_padding(size))


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)
