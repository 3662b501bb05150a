"""A program at a terminal of its own: a pseudo-terminal of 100 by 30, and what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_SECONDS = 60


class Terminal:
    """A running program whose three streams are one terminal. A context manager, which ends the program."""

    def __init__(self, command: Sequence[str], *, environment: dict[str, str], folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._process = subprocess.Popen(
            command,
            env={"TERM": "xterm-256color"} | environment,
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> None:
        """Read until `text` is shown; what came up to there is not looked at again."""
        until = time.monotonic() + _SECONDS
        while text.encode() not in self._shown:
            assert self._read(until), f"{text!r} is not shown: {self._shown!r}"
        self._shown = self._shown.partition(text.encode())[2]

    def end(self) -> tuple[int, str]:
        """Its exit status, and all that it showed."""
        until = time.monotonic() + _SECONDS
        while self._read(until):
            pass
        return self._process.wait(_SECONDS), self._shown.decode()

    def _read(self, until: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        # How a terminal says that nobody has its other end any more.
        except OSError:
            return False
        self._shown += data
        return bool(data)
