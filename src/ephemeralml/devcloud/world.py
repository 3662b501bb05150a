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


def run(*arguments: str, environment: dict[str, str] | None = None, seconds: float = _START_SECONDS) -> str:
    """Run a command to its end and return what it printed. Raises `WorldError` with its last line when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command(*arguments), capture_output=True, text=True, check=False, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise WorldError(f"{' '.join(arguments[:2])} goes on after {seconds:.0f} s", code="world.silent") from None
    if done.returncode:
        said = _last(done.stderr.strip().splitlines()) or f"exit status {done.returncode}"
        raise WorldError(said, code="world.command")
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

    def wait_for(self, word: str, *, seconds: float = _START_SECONDS) -> str:
        """The next line with `word` in it. Raises `WorldError` with the process's last words when it ends before.

        `seconds` is how long it may be silent.
        """
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except Empty:
                raise WorldError(f"nothing was heard for {seconds:.0f} s", code="world.silent") from None
            if line is None:
                raise WorldError(_last(self.words()) or "it ended without a word", code="world.ended")
            if word in line:
                return line

    def said(self) -> list[str]:
        """The lines that nobody waited for, up to now."""
        lines: list[str] = []
        while True:
            try:
                line = self._lines.get_nowait()
            except Empty:
                return lines
            if line is None:
                # The end is still the end for `wait_for`.
                self._lines.put(None)
                return lines
            lines.append(line)

    def words(self) -> list[str]:
        """Its lines on standard error, once it has ended. Raises `WorldError` when it does not."""
        try:
            self._process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            raise WorldError(f"a process goes on after {_START_SECONDS} s", code="world.silent") from None
        return self._log.read_text().strip().splitlines()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the command itself; what it started are its children."""
        return self._process.pid

    def event(self, name: str, *, seconds: float = _START_SECONDS) -> dict[str, Any]:
        """The next JSON event of that name."""
        found: dict[str, Any] = json.loads(self.wait_for(f'"{name}"', seconds=seconds))
        return found

    def kill(self) -> None:
        """As the machine would: it has no time for anything."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop it, kindly first. May be repeated."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class World:
    """A folder, a KMS, and the environments in which owner and host have their credentials. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "dev-root"
        self._running: list[Process] = []
        self.kms_url = ""
        self.kms = self.start_kms()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.stop()

    def start_kms(self) -> Process:
        """Start the KMS, where it was if it ran before."""
        self.kms, self.kms_url = self._serving(
            *("kms", "run", str(self.folder / "kms"), "--root", str(self.root)),
            *("--port", _port(self.kms_url)),
            log="kms.log",
        )
        return self.kms

    def start_s3(self, url: str = "") -> tuple[Process, str]:
        """Start the S3 and return its address, `url` if it ran there before; it has one bucket, ``models``."""
        return self._serving(
            *("s3", "run", str(self.folder / "s3"), "--bucket", "models", "--port", _port(url)),
            *("--credentials", str(self.folder / "kms" / "credentials")),
            log="s3.log",
        )

    def _serving(self, *arguments: str, log: str) -> tuple[Process, str]:
        process = self.start(*arguments, log=log)
        try:
            return process, process.wait_for("serving on").split()[-1]
        except BaseException:
            process.stop()
            raise

    def start(self, *arguments: str, log: str, environment: dict[str, str] | None = None) -> Process:
        """Start a command, which ends with this world at the latest."""
        process = Process(*arguments, log=self.folder / log, environment=environment)
        self._running.append(process)
        return process

    def environment(self, profile: str) -> dict[str, str]:
        """Our own environment with the credentials of ``owner`` or ``host`` and nobody else's."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return mine | {"AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "kms" / "credentials"), "AWS_PROFILE": profile}

    def host(self, package: Path | str, configuration: Path | None, *options: str, log: str = "host.log") -> Process:
        """Start a host, with an enclave unless `options` say where one is; not yet ready.

        `package`: its folder, or its place in S3.
        """
        enclave = () if configuration is None else ("--configuration", str(configuration), "--root", str(self.root))
        return self.start(
            *("host", "run", str(package), *options, *enclave),
            *("--kms-endpoint", self.kms_url, "--relay", "tcp://127.0.0.1:0", "--log-format", "json"),
            log=log,
            environment=self.environment("host"),
        )


def _last(lines: list[str]) -> str:
    """The last line, without the name that the command line puts before an error: it will put it before this one."""
    return lines[-1].removeprefix("ephemeralml: ") if lines else ""


def _port(url: str) -> str:
    """Of a server's address; 0, any, when there is none yet."""
    return url.rpartition(":")[2] or "0"
