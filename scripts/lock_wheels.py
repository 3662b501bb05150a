#!/usr/bin/env python3
"""Pin the wheels of the image: the versions of requirements/runtime.txt, for the image's own interpreter.

`scripts/lock_wheels.py PROJECT… > deploy/image/wheels.txt`. Only a wheel whose hash is in requirements/runtime.txt too
is taken, so the enclave runs what the tests ran.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from ephemeralml.image.interpreter import VERSION
from ephemeralml.image.wheels import digest, download

_PINS = Path(__file__).parents[1] / "requirements" / "runtime.txt"
_PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(.*)\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)


def main() -> None:
    """Print the list."""
    print(f"# CPython {VERSION}, manylinux x86_64: {' '.join(sys.argv[1:])}")
    with tempfile.TemporaryDirectory() as folder:
        for project in sorted(sys.argv[1:]):
            version, hashes = pinned(project)
            requirement, target = Path(folder, f"{project}.txt"), Path(folder, project)
            requirement.write_text(f"{project}=={version}\n")
            download(requirement, target)
            (wheel,) = target.iterdir()
            if digest(wheel) not in hashes:
                sys.exit(f"{wheel.name} is not in {_PINS.name}")
            print(f"{project}=={version} --hash=sha256:{digest(wheel)}")


def pinned(project: str) -> tuple[str, set[str]]:
    """The version that the image's Python has, and the hashes of all its files."""
    for name, version, marker, hashes in _PIN.findall(_PINS.read_text()):
        if name == project and "python_full_version < " not in marker:
            return version, set(re.findall(r"sha256:([0-9a-f]{64})", hashes))
    sys.exit(f"{_PINS.name} has no {project}")


if __name__ == "__main__":
    main()
