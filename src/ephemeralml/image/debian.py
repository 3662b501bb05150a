"""Debian packages by their hashes: fetched from any mirror into a cache, unpacked without dpkg and without root.

A list names each package by its place in a mirror, its size and its SHA-256, so no mirror needs to be trusted.
`scripts/lock_debs.py` writes lists.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import IO, Final, Self
from urllib.parse import unquote

from ephemeralml.errors import ImageError
from ephemeralml.files import whole_file

MIRROR_VARIABLE: Final = "EPHEMERALML_DEBIAN_MIRROR"
CACHE_VARIABLE: Final = "EPHEMERALML_CACHE"

_BLOCK_BYTES: Final = 1 << 20
_MAX_PACKAGE_BYTES: Final = 1 << 30
_SECONDS: Final = 60
_LINE = re.compile(r"([0-9a-f]{64}) +([0-9]+) +(pool/[A-Za-z0-9+._~%/-]+\.deb)")
# ar(5): a magic, then members with a header of 60 bytes, on even offsets.
_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER: Final = 60


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A .deb: its `path` in a mirror, its `size` in bytes and the SHA-256 of the file."""

    path: str
    size: int
    sha256: str

    @classmethod
    def read_list(cls, path: Path) -> tuple[Self, ...]:
        """The packages of a list: lines of hash, size and path; ``#`` begins a comment.

        Raises OSError, and `ImageError` (``image.packages``) for anything else.
        """
        packages = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None or ".." in line or int(match[2]) > _MAX_PACKAGE_BYTES:
                raise ImageError(f"{path}, line {number}: not a hash, a size and a place", code="image.packages")
            packages.append(cls(match[3], int(match[2]), match[1]))
        return tuple(packages)

    @property
    def name(self) -> str:
        """The name of the package alone."""
        return Path(self.path).name.partition("_")[0]

    @property
    def version(self) -> str:
        """Its version, without an epoch, which file names do not have."""
        return unquote(Path(self.path).name.split("_")[1])


def cache_folder() -> Path:
    """Where fetched and built things are kept: ``$EPHEMERALML_CACHE``, else the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ephemeralml"


def default_mirror() -> str:
    """``$EPHEMERALML_DEBIAN_MIRROR``, else the mirror of this machine's apt.

    Raises `ImageError` (``image.mirror``) when there is neither.
    """
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return mirror
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL)"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no input
        for site, origin, label in (words for line in listed.splitlines() if len(words := line.split()) == 3):
            # Not the security archive, whose label is another and which has other packages.
            if (origin, label) == ("Debian", "Debian"):
                return site
    raise ImageError(
        f"no Debian mirror is known on this machine: set {MIRROR_VARIABLE} to the address of one "
        "(the folder that has dists/ and pool/)",
        code="image.mirror",
    )


def fetch(
    packages: Sequence[DebianPackage],
    *,
    cache: Path,
    mirror: str | None = None,
    on_fetch: Callable[[DebianPackage], None] = lambda _: None,
) -> list[Path]:
    """The packages' files in `cache`, in the same order; what is there already is checked and not fetched again.

    `on_fetch` hears of each one that is. Raises OSError and `ImageError`: ``image.moved`` when the mirror no longer has
    a package, ``image.fetch`` when it does not answer, ``image.hash`` when it has another file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    return [_cached(package, cache=cache, mirror=mirror, on_fetch=on_fetch) for package in packages]


def unpack(deb: Path, into: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Unpack those files of a package whose path (no leading slash) is `wanted`: modes and links are kept, owners not.

    Raises OSError and `ImageError` (``image.packages``) for a file that is no package.
    """
    with deb.open("rb") as file:
        try:
            _seek_member(file, b"data.tar.xz")
            with tarfile.open(fileobj=file, mode="r|xz") as archive:
                archive.extractall(into, members=_members(archive, wanted), filter="tar")
        # KeyError: a hard link to a file that is not wanted.
        except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
            raise ImageError(f"{deb} is not a Debian package: {error}", code="image.packages") from error


def control(deb: Path) -> Message:
    """What a package says of itself (deb-control(5)). Raises OSError and `ImageError` (``image.packages``)."""
    with deb.open("rb") as file:
        try:
            _seek_member(file, b"control.tar.xz")
            with tarfile.open(fileobj=file, mode="r|xz") as archive:
                for member in archive:
                    if member.name == "./control" and (content := archive.extractfile(member)) is not None:
                        return message_from_bytes(content.read())
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise ImageError(f"{deb} is not a Debian package: {error}", code="image.packages") from error
    raise ImageError(f"{deb} is not a Debian package: it has no control file", code="image.packages")


def _cached(
    package: DebianPackage, *, cache: Path, mirror: str | None, on_fetch: Callable[[DebianPackage], None]
) -> Path:
    path = cache / f"{package.sha256[:16]}-{Path(package.path).name}"
    if path.exists():
        with path.open("rb") as file:
            if _digest(file, lambda _: None) == package.sha256:
                return path
    on_fetch(package)
    base = (mirror or default_mirror()).rstrip("/")
    with whole_file(path) as file:
        if _download(f"{base}/{package.path}", package, file.write) != package.sha256:
            raise ImageError(
                f"{base} has another {Path(package.path).name} than the list: its SHA-256 differs; try another mirror",
                code="image.hash",
            )
    return path


def _download(address: str, package: DebianPackage, write: Callable[[bytes], object]) -> str:
    if not address.startswith(("http://", "https://")):
        raise ImageError(f"{address}: a mirror is an http or https address", code="image.mirror")
    try:
        with closing(urllib.request.urlopen(address, timeout=_SECONDS)) as answer:  # noqa: S310 - checked above
            return _digest(answer, write, limit=package.size)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise ImageError(f"{address}: the mirror answers {error.code}", code="image.fetch") from error
        raise ImageError(
            f"{address} is gone: Debian has replaced {package.name} {package.version}. An archive that keeps old "
            f"versions still has it: set {MIRROR_VARIABLE} to a snapshot of the list's date. Or pin what Debian has "
            "now with scripts/lock_debs.py, which changes what is built from it",
            code="image.moved",
        ) from error
    except OSError as error:
        raise ImageError(f"{address}: {getattr(error, 'reason', error)}", code="image.fetch") from error


def _digest(file: IO[bytes], write: Callable[[bytes], object], *, limit: int = _MAX_PACKAGE_BYTES) -> str:
    """The SHA-256 of what is read, at most one block more than `limit`; each block is written too."""
    digest, size = sha256(), 0
    while size <= limit and (block := file.read(_BLOCK_BYTES)):
        digest.update(block)
        write(block)
        size += len(block)
    return digest.hexdigest()


def _seek_member(file: IO[bytes], name: bytes) -> None:
    """Go to the content of a member (deb(5))."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("it has no ar archive's beginning")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        if header[:16].rstrip(b" /") == name:
            return
        if (size := int(header[48:58])) < 0:
            break
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError(f"it has no {name.decode()}")


def _members(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        if wanted(member.name.removeprefix("./").rstrip("/")):
            yield member
