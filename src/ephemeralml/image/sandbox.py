"""A root folder of Debian packages, and programs that run in it: on nothing of this machine's, without a network."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from ephemeralml.errors import ImageError
from ephemeralml.image import debian

_USR_MERGED: Final = ("bin", "lib", "lib64", "sbin")
_LAST_LINES: Final = 10
# Nothing of the caller's environment; chroot is where a user's path does not lead.
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_ENTER: Final = 'mount --bind /dev/null "$0/dev/null" && exec chroot "$0" "$@"'


class Sandbox:
    """A new folder that is the root of its programs, in mount, process and network namespaces of their own.

    Any user who may have a user namespace can run them. `log` gets what they say.
    """

    def __init__(self, root: Path, *, log: Path) -> None:
        self.root = root
        self._log = log
        for name in _USR_MERGED:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for name in ("dev", "tmp"):
            (root / name).mkdir()
        (root / "dev/null").touch()
        log.write_bytes(b"")

    def fill(self, packages: Iterable[Path]) -> None:
        """Unpack Debian packages. Raises OSError and `ImageError`, as `debian.unpack` does."""
        for package in packages:
            debian.unpack(package, self.root)

    def run(self, *command: str) -> None:
        """Run a program to its end.

        Raises OSError and `ImageError`: ``image.sandbox`` where this user may have no such namespaces, ``image.build``
        when the program fails.
        """
        own = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        if os.geteuid() != 0:
            own += ["--user", "--map-root-user"]
        if not self._succeeds([*own, "true"]):
            raise ImageError(
                f"the tool chain cannot have a root of its own here ({self._said(1)}): build as root, or allow user "
                "namespaces (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu also "
                "kernel.apparmor_restrict_unprivileged_userns=0; in a container, its seccomp profile)",
                code="image.sandbox",
            )
        if not self._succeeds([*own, "sh", "-c", _ENTER, str(self.root), *command]):
            raise ImageError(
                f"{' '.join(command)} failed; the end of {self._log}:\n{self._said(_LAST_LINES)}", code="image.build"
            )

    def _succeeds(self, command: Sequence[str]) -> bool:
        with self._log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - the recipe's own
                command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        return done.returncode == 0

    def _said(self, lines: int) -> str:
        with self._log.open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, lines)).strip()
