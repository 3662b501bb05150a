"""A long command that somebody stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PATIENCE = 900


def stopped(*arguments: object, scratch: Path, at: str, how: signal.Signals = signal.SIGINT) -> None:
    """Run a command line with its temporary files in `scratch`, and stop it once it has said `at`: a quiet end.

    Ctrl-C reaches its processes too; any other signal it alone.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "ephemeralml.cli", *map(str, arguments)],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        while at not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        (os.killpg if how is signal.SIGINT else os.kill)(process.pid, how)
        said += process.stderr.read()
        assert process.wait(PATIENCE) == 130, said
    assert "Traceback" not in said
