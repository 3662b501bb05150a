"""Ctrl-C at a terminal, in the middle of a run with its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

# Far more than anything here takes on a slow machine.
PATIENCE = 120


def test_ctrl_c_leaves_no_file_no_folder_and_no_process(tiny_model: Path, tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "ephemeralml.cli", "bench", "speed", "--quick", "--only", "d"]
    with subprocess.Popen(
        [*command, "--model", str(tiny_model), "--out", str(out)],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        while "window 1 of 2" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        os.killpg(process.pid, signal.SIGINT)
        said += process.stderr.read()
        assert process.wait(PATIENCE) == 130, said
    assert "Traceback" not in said
    assert list(out.iterdir()) == []
    # ONNX Runtime leaves a file of its own there when it is imported.
    assert [path.name for path in scratch.iterdir() if path.name != ".ses"] == []
    mine = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not any(str(scratch).encode() in line for line in mine)
