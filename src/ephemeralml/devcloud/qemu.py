"""QEMU from Debian's packages, in the cache and nowhere else: pinned by hash, run through a loader of its own."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.image import debian

PACKAGES: Final = Path(__file__).parents[3] / "deploy" / "vm" / "qemu.debs"
_PROGRAM: Final = "usr/bin/qemu-system-x86_64"
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_LOADER: Final = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
# Firmware: qboot is QEMU's, option ROMs and the rest SeaBIOS's.
_FIRMWARE: Final = ("usr/share/qemu", "usr/share/seabios")


@dataclass(frozen=True, slots=True)
class Qemu:
    """An unpacked QEMU in `folder`."""

    folder: Path

    @classmethod
    def find(cls, packages: Path = PACKAGES) -> Self:
        """The one that is in the cache. Raises `ConfigurationError` (``vm.qemu``) when there is none."""
        if not packages.is_file():
            raise ConfigurationError(
                f"--platform vm runs from a checkout of the sources: there is no {packages}", code="vm.qemu"
            )
        folder = _place(packages)
        if not folder.is_dir():
            raise ConfigurationError(
                "QEMU is not in the cache: run scripts/setup_vm.sh, which fetches it from Debian", code="vm.qemu"
            )
        return cls(folder)

    @classmethod
    def install(cls, packages: Path = PACKAGES, *, on_progress: Callable[[str], None] = lambda _: None) -> Self:
        """Fetch and unpack it, if it is not in the cache; of two at once the second waits.

        Raises OSError and `ImageError`, as `debian.fetch` and `debian.unpack` do.
        """
        folder = _place(packages)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                files = debian.fetch(
                    debian.DebianPackage.read_list(packages),
                    cache=debian.cache_folder() / "debs",
                    on_fetch=lambda package: on_progress(f"fetching {package.name} {package.version}"),
                )
                with tempfile.TemporaryDirectory(prefix="unpack-", dir=folder.parent) as place:
                    root = Path(place) / "root"
                    on_progress("unpacking")
                    for file in files:
                        debian.unpack(file, root, wanted=_wanted)
                    # Whole or not at all.
                    root.rename(folder)
        return cls(folder)

    def command(self, *options: str) -> list[str]:
        """The command line that runs it with these options."""
        return [
            *(str(self.folder / _LOADER), "--library-path", str(self.folder / _LIBRARIES)),
            str(self.folder / _PROGRAM),
            *(word for place in _FIRMWARE for word in ("-L", str(self.folder / place))),
            *options,
        ]


def _place(packages: Path) -> Path:
    return debian.cache_folder() / "vm" / sha256(packages.read_bytes()).hexdigest()[:32]


def _wanted(path: str) -> bool:
    return path == _PROGRAM or path.startswith((f"{_LIBRARIES}/lib", _LOADER, *(f"{place}/" for place in _FIRMWARE)))


def main() -> int:
    """Install, and print where it is."""
    try:
        qemu = Qemu.install(on_progress=lambda what: print(what, file=sys.stderr, flush=True))  # noqa: T201
    except (EphemeralMLError, OSError) as error:
        print(f"setup_vm: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(qemu.folder)  # noqa: T201
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
