"""Somebody who reads a page at a terminal: its blocks run one after another, in one folder, on a machine of their own.

The machine is a network namespace, so that the ports which pages name are free; its name `HOST` is the machine itself.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Final

import pytest

# Far more than any block takes on a slow machine.
_PATIENCE = 120
_ENDED: Final = "--the block has ended--"

_MACHINE = """
import fcntl, socket, struct, subprocess, sys, time
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/hosts"], check=True)
# SIOCSIFFLAGS: up, running.
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))
print("up", flush=True)
sys.stdin.read()
"""
_BASH: Final = f"""
declare -A served
replace() {{ if [[ -n ${{served[$1]-}} ]]; then kill "${{served[$1]}}"; wait "${{served[$1]}}" || true; fi; }}
await() {{
    served[$1]=$2
    until grep -qE 'serving on|: ready' "$3"; do
        if ! kill -0 "$2"; then cat "$3"; return 1; fi
        sleep 0.05
    done
}}
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
exec 3<&0 < /dev/null 2>&1
set -euo pipefail
while read -r -u 3 block; do . "$block"; printf '\\n%s\\n' "{_ENDED}"; done
"""
_PYTHON: Final = f"""
import sys, traceback
from pathlib import Path
sys.stderr = sys.stdout
names = {{"__name__": "__main__"}}
for line in sys.stdin:
    try:
        exec(compile(Path(line.strip()).read_text(), line.strip(), "exec"), names)
        print("\\n{_ENDED}", flush=True)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
"""
# What stays until it is stopped: started as in a terminal of its own, and waited for until it says that it serves. A
# line that says where its output goes is run as it is, since its page has another way to wait.
_SERVER = re.compile(
    r"((?:[A-Z_]+=\S+ )*ephemeralml (gateway(?! key)|(?:host|kms|s3|enclave) run)\b[^#&>]*)(?:&\s*)?(?:#.*)?"
)


@contextmanager
def machine(folder: Path) -> Iterator[list[str]]:
    """What to put before a command to run it on a machine with no network but its own; skips where none can be made."""
    (folder / "hosts").write_text("127.0.0.1 localhost HOST\n")
    start = ["unshare", "--user", "--map-root-user", "--net", "--mount", sys.executable, "-c", _MACHINE]
    with subprocess.Popen(
        [*start, folder / "hosts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "up\n":
            pytest.skip(f"NO NAMESPACES: what the pages say is not run here ({process.stderr.read().strip()})")
        yield ["nsenter", f"--target={process.pid}", "--user", "--net", "--mount", "--preserve-credentials"]
        process.kill()


class Reader:
    """One page's bash and Python, each with what the page's blocks before left in it."""

    def __init__(self, enter: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._enter, self.folder = enter, folder
        self._environment = {**os.environ, **environment, "PATH": f"{_commands(folder)}:{os.environ['PATH']}"}
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._count = 0

    def bash(self, text: str) -> str:
        """Run a block, and return what it printed. Fails the test when a command of it fails."""
        return self._run("bash", ["bash", "-c", _BASH], as_typed(text))

    def python(self, text: str) -> str:
        """The same for a block of Python."""
        return self._run("python", [sys.executable, "-W", "error", "-c", _PYTHON], text)

    def _run(self, kind: str, command: list[str], text: str) -> str:
        if kind not in self._running:
            self._running[kind] = subprocess.Popen(
                [*self._enter, f"--wd={self.folder}", *command],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        process = self._running[kind]
        assert process.stdin is not None
        assert process.stdout is not None
        if process.poll() is not None:
            pytest.fail("a block above it on the page failed")
        self._count += 1
        block = self.folder / f".block-{self._count}"
        block.write_text(text)
        process.stdin.write(f"{block}\n")
        process.stdin.flush()
        said: list[str] = []
        watch = Timer(_PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        watch.start()
        for line in process.stdout:
            if line.rstrip() == _ENDED:
                watch.cancel()
                return "".join(said)
            said.append(line)
        process.wait()
        watch.cancel()
        pytest.fail(f"the block failed:\n{text}\n{''.join(said)}")

    def close(self) -> None:
        """End both, and what they started."""
        for process in self._running.values():
            with process:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(_PATIENCE)
                finally:
                    # Nothing of it is left, as a rule.
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


def as_typed(text: str) -> str:
    """A block of shell as its reader types it: what serves is waited for, as the page asks, before the next line."""
    lines = []
    for number, line in enumerate(text.replace("\\\n", " ").splitlines()):
        if server := _SERVER.fullmatch(line):
            start, kind, said = server[1].strip(), server[2], f".said-{number}"
            lines += [f"replace '{kind}'", f"{start} > {said} 2>&1 &", f"await '{kind}' $! {said}"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _commands(folder: Path) -> Path:
    """The virtualenv's folder as pages name it: this very code as the command, this very Python."""
    commands = folder / ".venv" / "bin"
    if not commands.exists():
        commands.mkdir(parents=True)
        for name, started in (("ephemeralml", "-m ephemeralml.cli "), ("python", "")):
            (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {started}"$@"\n')
            (commands / name).chmod(0o755)
        (commands / "activate").write_text(f"PATH={commands}:$PATH\n")
    return commands
