"""The image's own interpreter, run on the machine that builds the image, through the image's own loader and libraries.

Compiled code and compressed bytes differ between versions of Python and zlib. These two are pinned by hash like all
that is in the image, so a stranger with other versions gets the same bytes.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Final

from ephemeralml.errors import ImageError
from ephemeralml.image import inside

VERSION: Final = "3.13"
LIBRARY: Final = f"usr/lib/python{VERSION}"
PROGRAM: Final = f"usr/bin/python{VERSION}"
SHARED_OBJECTS: Final = "usr/lib/x86_64-linux-gnu"
LOADER: Final = f"{SHARED_OBJECTS}/ld-linux-x86-64.so.2"

# The order of sets in compiled code follows the seed.
_ENVIRONMENT: Final = {"PYTHONHASHSEED": "0"}
_FLAGS: Final = ("-P", "-s", "-S", "-B", "-X", "utf8")


class Interpreter:
    """CPython in `root`, where the packages of the image are unpacked. It must be Linux on x86_64 here."""

    def __init__(self, root: Path) -> None:
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise ImageError(
                "the image is built on Linux on x86_64 alone: its own interpreter has a part in it",
                code="image.machine",
            )
        self._root = root.absolute()

    def compile(self, folder: Path, *, prefix: str) -> None:
        """Replace sources by compiled code; `prefix` is the folder's name in the image. Raises `ImageError`."""
        self._run("compile", str(folder.absolute()), prefix)

    def compress(self, source: Path, target: Path) -> None:
        """Write `source` as gzip at `target`. Raises `ImageError`."""
        self._run("compress", str(source.absolute()), str(target.absolute()))

    def _run(self, *arguments: str) -> None:
        loader = [str(self._root / LOADER), "--inhibit-cache", "--library-path", str(self._root / SHARED_OBJECTS)]
        command = [*loader, str(self._root / PROGRAM), *_FLAGS, inside.__file__, *arguments]
        done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise ImageError(f"the image's interpreter cannot {arguments[0]}: {why[0]}", code="image.interpreter")
