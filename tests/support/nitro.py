"""A Nitro-capable instance as far as `nitro-cli` can tell: the stand-in beside this file, and a folder of its state."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BIN = Path(__file__).parent / "bin"
PCRS = {f"PCR{index}": f"{index + 1:02x}" * 48 for index in range(3)}
# Far more than anything takes on a slow machine.
PATIENCE = 120


@contextmanager
def made_instance() -> Iterator[Instance]:
    """An instance in a folder with a short name, since sockets have their paths there; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="eml-") as folder:
        made = Instance(Path(folder) / "i")
        yield made
        made.kill()


class Instance:
    """What the stand-in did, and what it shall do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """What finds the stand-in, and this instance's state."""
        return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NITRO_CLI_SOCKETS_PATH": str(self.folder)}

    def image(self, *command: object, console: str = "", pcrs: dict[str, str] | None = None) -> Path:
        """An EIF that runs `command`."""
        path = self.folder / "enclave.eif"
        content = {"pcrs": pcrs or PCRS, "command": [*map(str, command)], "console": console}
        path.write_text(json.dumps(content))
        return path

    def script(self, **steps: list[dict[str, Any]]) -> None:
        """What the next calls of a command do beside their work: see the stand-in."""
        named = {name.replace("_", "-"): value for name, value in steps.items()}
        (self.folder / "script.json").write_text(json.dumps(named))

    def enclaves(self) -> list[dict[str, Any]]:
        """Those that run, as described."""
        found = []
        for path in sorted(self.folder.glob("*.enclave")):
            with suppress(FileNotFoundError):
                info = json.loads(path.read_text())
                if Path(f"/proc/{info['ProcessID']}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(info)
        return found

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of each call of `command`, so far."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == command]

    def kill(self) -> None:
        """Every enclave crashes."""
        for info in self.enclaves():
            with suppress(ProcessLookupError):
                os.kill(info["ProcessID"], signal.SIGTERM)
        until(lambda: not self.enclaves())


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
