#!/usr/bin/env python3
"""What is in the enclave's image beside a plain `python:3.11-slim` with the same wheels, counted the same way.

`scripts/compare_image.py build/enclave.report.json docs/results/image.json`. The plain image is put together
again from the packages that it is made of (`deploy/image/slim/`), as `how` in the result says.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ephemeralml.image import debian, rootfs, wheels
from ephemeralml.image.contents import Contents
from ephemeralml.image.enclave import Recipe

RECIPE = Path(__file__).parents[1] / "deploy" / "image"
LIBRARY = "usr/lib/python3.11"
PACKAGES = "usr/local/lib/python3.11/site-packages"
HOW = (
    "python:3.11-slim is python:3.11-slim-trixie. Put together again without a container: Debian trixie's "
    "essential and required packages with apt, ca-certificates, netbase and tzdata, less what debian:trixie-slim omits "
    "(documentation but for copyright files, manuals, locales); CPython 3.11 as Debian bookworm packages it, less "
    "tests (trixie has none, and the original builds its own); pip, setuptools and wheel; then the wheels of the "
    "enclave's image, whole, without what pip would install beside them. No package's scripts were run, nothing was "
    "compiled."
)
# What debian:trixie-slim leaves out.
_SLIM = tuple(f"usr/share/{name}/" for name in ("doc", "man", "info", "locale", "lintian", "linda", "groff"))
_TESTS = frozenset({"test", "tests", "idle_test"})


def main() -> None:
    """Write the comparison and print it as a table."""
    report, out = map(Path, sys.argv[1:])
    ours = json.loads(report.read_text())["total"]
    with tempfile.TemporaryDirectory() as folder:
        slim = asdict(count(Path(folder)))
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "how": HOW, "enclave": ours, "python:3.11-slim": slim}
    out.write_text(json.dumps(result, indent=2) + "\n")
    print("| | enclave image | python:3.11-slim with the same wheels |\n|---|---|---|")
    for name, value in ours.items():
        print(f"| {name.replace('_', ' ')} | {value:,} | {slim[name]:,} |")


def count(root: Path) -> Contents:
    """Put the plain image together under `root` and count it."""
    slim, cache = Recipe.load(RECIPE / "slim"), debian.cache_folder()
    for package in debian.fetch(slim.packages, cache=cache / "debs"):
        debian.unpack(package, root, wanted=in_slim)
    for wheel in wheels.fetch((*slim.wheels, *Recipe.load(RECIPE).wheels), cache=cache / "wheels"):
        wheels.unpack(wheel, root / PACKAGES)
    for path in sorted((root / LIBRARY).rglob("*")):
        if path.is_dir() and path.name in _TESTS:
            shutil.rmtree(path)
    runnable = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_symlink() and path.is_file() and path.stat().st_mode & stat.S_IXUSR
    ]
    search_path = (LIBRARY, f"{LIBRARY}/lib-dynload", PACKAGES)
    return Contents.of(rootfs.entries(root, executables=frozenset(runnable)), search_path=search_path)


def in_slim(path: str) -> bool:
    """Whether debian:trixie-slim has a file of its packages."""
    return path.endswith("/copyright") or not path.startswith(_SLIM)


if __name__ == "__main__":
    main()
