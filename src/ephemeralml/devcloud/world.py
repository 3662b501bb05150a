"""A deployment on this machine: a KMS and a host with its enclave, real processes started with a user's own commands.

Nothing of them is imported: what the demo shows and the benchmark measures is what a user runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

from ephemeralml.errors import EphemeralMLError

_START_SECONDS = 60
_STOP_SECONDS = 15


class WorldError(EphemeralMLError):
    """A process of the deployment did not do its part."""


def command(*arguments: str) -> list[str]:
    """An `ephemeralml` command line of this very installation."""
    return [sys.executable, "-m", "ephemeralml.cli", *arguments]


def run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed. Raises `WorldError` with its last line when it fails."""
    done = subprocess.run(  # noqa: S603 - our own command
        command(*arguments), capture_output=True, text=True, check=False, env=environment, timeout=_START_SECONDS
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise WorldError(lines[-1] if lines else f"exit status {done.returncode}", code="world.command")
    return done.stdout


class Process:
    """A running command; `wait_for` reads its standard output line by line."""

    def __init__(self, *arguments: str, log: Path, environment: dict[str, str] | None = None) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command(*arguments), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self._lines: Queue[str | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, word: str) -> str:
        """The next line with `word` in it. Raises `WorldError` with the process's last words when it ends before."""
        while True:
            try:
                line = self._lines.get(timeout=_START_SECONDS)
            except Empty:
                raise WorldError(f"nothing was heard for {_START_SECONDS} s", code="world.silent") from None
            if line is None:
                self._process.wait()
                said = self._log.read_text().strip().splitlines()
                raise WorldError(said[-1] if said else "a process ended without a word", code="world.ended")
            if word in line:
                return line

    @property
    def pid(self) -> int:
        """Of the command itself; what it started are its children."""
        return self._process.pid

    def event(self, name: str) -> dict[str, Any]:
        """The next JSON event of that name."""
        found: dict[str, Any] = json.loads(self.wait_for(f'"{name}"'))
        return found

    def stop(self) -> None:
        """Stop it, kindly first."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class World:
    """A folder, a KMS, and the environments in which owner and host have their credentials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "dev-root"
        self.kms = Process(
            "kms", "run", str(folder / "kms"), "--root", str(self.root), "--port", "0", log=folder / "kms.log"
        )
        try:
            self.kms_url = self.kms.wait_for("serving on").split()[-1]
        except BaseException:
            self.kms.stop()
            raise

    def environment(self, profile: str) -> dict[str, str]:
        """Our own environment with the credentials of ``owner`` or ``host`` and nobody else's."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return mine | {"AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "kms" / "credentials"), "AWS_PROFILE": profile}

    def host(self, package: Path, configuration: Path) -> Process:
        """Start a host with an enclave; not yet ready."""
        return Process(
            *("host", "run", str(package), "--configuration", str(configuration), "--root", str(self.root)),
            *("--kms-endpoint", self.kms_url, "--relay", "tcp://127.0.0.1:0", "--json"),
            log=self.folder / "host.log",
            environment=self.environment("host"),
        )
