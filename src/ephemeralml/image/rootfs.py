"""The files of the ramdisks as they lie in folders: which shared objects stay, and what each becomes in the archive."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ephemeralml.errors import ImageError
from ephemeralml.image import elf
from ephemeralml.image.cpio import Entry
from ephemeralml.image.interpreter import LOADER, PROGRAM, SHARED_OBJECTS


def drop_unused_libraries(base: Path, *others: Path) -> None:
    """Remove shared objects of `base` that no program or library of it or of `others` asks for.

    Raises OSError and `ImageError` (``image.library``) when one is asked for that is in none of them.
    """
    folder = base / SHARED_OBJECTS
    objects = {path.name: path for root in (base, *others) for path in _files(root) if ".so" in path.name}
    offered = {path.name for path in folder.iterdir() if path.is_file()}
    # Programs and extensions are loaded by themselves; the loader is in every program's header.
    waiting = [path for name, path in objects.items() if name not in offered] + [base / PROGRAM]
    used = {Path(LOADER).name}
    while waiting:
        path = waiting.pop()
        if not elf.is_elf(path):
            continue
        for name in elf.needed(path):
            if name not in objects:
                raise ImageError(
                    f"{path.name} needs {name}, which is in no package of the image's lists: add the one that has it",
                    code="image.library",
                )
            if name in offered and name not in used:
                used.add(name)
                waiting.append(objects[name])
    kept = used | {str((folder / name).readlink()) for name in used if (folder / name).is_symlink()}
    for name in offered - kept:
        (folder / name).unlink()


def check_links(*roots: Path) -> None:
    """Raise `ImageError` (``image.link``) for a link out of its root: it would bring in a file of the builder's."""
    for root in roots:
        for path in _files(root):
            if path.is_symlink() and not Path(os.path.normpath(path.parent / path.readlink())).is_relative_to(root):
                raise ImageError(f"{path.relative_to(root)} is a link out of the image", code="image.link")


def entries(root: Path, *, executables: Collection[str] = ()) -> Iterator[Entry]:
    """Everything under `root` as it goes into a ramdisk: only `executables` (paths) may be run as programs."""
    for path in _files(root):
        place = path.relative_to(root).as_posix()
        if path.is_symlink():
            yield Entry.link(place, str(path.readlink()))
        else:
            yield Entry.file(place, path, executable=place in executables)


def _files(root: Path) -> Iterator[Path]:
    """Files and links under a folder, in order; folders that are links are not entered."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*names, *links]))
