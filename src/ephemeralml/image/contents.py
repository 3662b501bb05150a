"""What is in an image, counted: files, bytes, programs, importable modules; and each file with its hash."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Self

from ephemeralml.image.cpio import Entry
from ephemeralml.image.elf import MAGIC
from ephemeralml.image.interpreter import LIBRARY
from ephemeralml.image.pieces import blocks

# Where the image's interpreter looks for modules; the longest that fits a file is its folder.
SEARCH_PATH: Final = (LIBRARY, f"{LIBRARY}/lib-dynload", "app", "app/lib")
_MODULE = re.compile(r"(\w+)\.(?:pyc?|(?:cpython-\w+-x86_64-linux-gnu|abi3)\.so)")


@dataclass(frozen=True, slots=True)
class Contents:
    """Numbers of a root file system. `modules` counts what `import` finds as files, built-in modules not among it."""

    files: int
    bytes: int
    executables: int
    shared_objects: int
    modules: int

    @classmethod
    def of(cls, entries: Iterable[Entry], *, search_path: Sequence[str] = SEARCH_PATH) -> Self:
        """Count. Raises OSError."""
        files = [entry for entry in entries if stat.S_ISREG(entry.mode)]
        runnable = [entry for entry in files if entry.mode & 0o111]
        return cls(
            files=len(files),
            bytes=sum(entry.size for entry in files),
            executables=len(runnable),
            shared_objects=sum(_starts_like_elf(entry) for entry in files if entry not in runnable),
            modules=len(set(modules(files, search_path=search_path))),
        )


def modules(entries: Iterable[Entry], *, search_path: Sequence[str] = SEARCH_PATH) -> Iterator[str]:
    """The names of the modules that are files in the image."""
    for entry in entries:
        folder = max((root for root in search_path if entry.path.startswith(f"{root}/")), key=len, default=None)
        if folder is None:
            continue
        place = PurePosixPath(entry.path).relative_to(folder)
        if (match := _MODULE.fullmatch(place.name)) is None:
            continue
        parts = [*place.parts[:-1], match[1]]
        if parts[-1] == "__init__":
            parts.pop()
        if all(part.isidentifier() for part in parts):
            yield ".".join(parts)


def report(
    base: Sequence[Entry], application: Sequence[Entry], *, pcrs: Mapping[str, str], size: int
) -> dict[str, Any]:
    """Everything about an image, for JSON; `size` is that of its file. Raises OSError."""
    return {
        "pcrs": dict(pcrs),
        "eif_bytes": size,
        "total": asdict(Contents.of([*base, *application])),
        "ramdisks": [
            {"name": name, **asdict(Contents.of(entries)), "entries": [_described(entry) for entry in entries]}
            for name, entries in (("base", base), ("application", application))
        ],
        "modules": sorted(set(modules([*base, *application]))),
    }


def _described(entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {"path": f"/{entry.path}", "mode": stat.filemode(entry.mode)}
    if stat.S_ISLNK(entry.mode) and isinstance(entry.content, bytes):
        described["target"] = entry.content.decode()
    elif stat.S_ISREG(entry.mode):
        digest = hashlib.sha256()
        for block in blocks(entry.content):
            digest.update(block)
        described |= {"bytes": entry.size, "sha256": digest.hexdigest()}
    return described


def _starts_like_elf(entry: Entry) -> bool:
    return next(blocks(entry.content), b"").startswith(MAGIC)
