"""Wheels by their hashes: fetched by pip, as this machine's pip is configured, into a cache; unpacked without pip.

A list is a requirements file with one hash for each wheel. `scripts/lock_wheels.py` writes lists.
"""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from hashlib import file_digest
from pathlib import Path
from typing import Final, Self

from ephemeralml.errors import ImageError
from ephemeralml.files import whole_file
from ephemeralml.image.interpreter import VERSION
from ephemeralml.image.pieces import blocks

_LINE = re.compile(r"([a-z0-9-]+)==([A-Za-z0-9.+!]+) --hash=sha256:([0-9a-f]{64})")
# Of a wheel unpacked; openvino's has 200 MB.
_MAX_BYTES: Final = 1 << 30
_MAX_FILES: Final = 50_000
# What Debian 13's libc runs; pip does not know that one of them includes the others.
PLATFORMS: Final = tuple(f"manylinux{version}_x86_64" for version in ("_2_28", "_2_27", "_2_17", "2014"))


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel: `name` and `version` of its project, and the SHA-256 of the file."""

    name: str
    version: str
    sha256: str

    @classmethod
    def read_list(cls, path: Path) -> tuple[Self, ...]:
        """The wheels of a list; ``#`` begins a comment.

        Raises OSError, and `ImageError` (``image.packages``) for anything else.
        """
        wheels = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise ImageError(f"{path}, line {number}: not name==version and one hash", code="image.packages")
            wheels.append(cls(*match.groups()))
        return tuple(wheels)


def fetch(wheels: Sequence[Wheel], *, cache: Path, on_fetch: Callable[[Wheel], None] = lambda _: None) -> list[Path]:
    """The wheels' files in `cache`, in the same order; what is there already is checked and not fetched again.

    `on_fetch` hears of each one that is. Raises OSError and `ImageError` (``image.fetch``, ``image.hash``).
    """
    cache.mkdir(parents=True, exist_ok=True)
    return [_cached(wheel, cache=cache, on_fetch=on_fetch) for wheel in wheels]


def unpack(wheel: Path, into: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Unpack those files of a wheel whose path is `wanted`.

    Raises OSError and `ImageError` (``image.packages``) for a file that is no wheel, or that leaves the folder.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len({member.filename for member in members}) != len(members):
                raise ValueError("it has a name twice")
            if len(members) > _MAX_FILES or sum(member.file_size for member in members) > _MAX_BYTES:
                raise ValueError("it is too large")
            for member in members:
                _check(member)
                if wanted(member.filename):
                    archive.extract(member, into)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ImageError(f"{wheel} is not a wheel: {error}", code="image.packages") from error


def metadata(wheel: Path) -> Message:
    """What its project says of itself (core metadata). Raises OSError and `ImageError` (``image.packages``)."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            return message_from_bytes(archive.read(name))
    except (zipfile.BadZipFile, StopIteration) as error:
        raise ImageError(f"{wheel} is not a wheel: it has no METADATA", code="image.packages") from error


def download(requirements: Path, into: Path, *options: str) -> None:
    """Let this machine's pip fetch wheels for the image's interpreter. Raises `ImageError` (``image.fetch``)."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    target = ["--python-version", VERSION, "--implementation", "cp", *platforms]
    # -P: not a pip.py of the folder it is called in.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *target]
    command += [*options, "--dest", str(into), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no outsider's input
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        why = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise ImageError(
            f"pip cannot fetch the wheels of {requirements}: {why}. It asks the index that this machine's pip "
            "is configured for (`pip config list`)",
            code="image.fetch",
        )


def _cached(wheel: Wheel, *, cache: Path, on_fetch: Callable[[Wheel], None]) -> Path:
    path = cache / f"{wheel.sha256[:16]}-{wheel.name}-{wheel.version}.whl"
    if path.exists() and digest(path) == wheel.sha256:
        return path
    on_fetch(wheel)
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder, "requirements.txt")
        line.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        download(line, Path(folder), "--require-hashes")
        fetched = list(Path(folder).glob("*.whl"))
        if len(fetched) != 1 or digest(fetched[0]) != wheel.sha256:
            raise ImageError(
                f"pip fetched another {wheel.name} {wheel.version} than the list's: its SHA-256 differs",
                code="image.hash",
            )
        with whole_file(path) as file:
            for block in blocks(fetched[0]):
                file.write(block)
    return path


def digest(path: Path) -> str:
    """The SHA-256 of a file, hex. Raises OSError."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _check(member: zipfile.ZipInfo) -> None:
    """Raise ValueError for a place outside the folder, or for what is no plain file."""
    parts = member.filename.split("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if {"", ".", ".."} & set(parts) or "\\" in member.filename or kind not in {0, stat.S_IFREG}:
        raise ValueError(f"{member.filename!r} may not be in it")
