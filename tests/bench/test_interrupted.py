"""A run with its processes, stopped in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from ctrl_c import stopped


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_no_file_no_folder_and_no_process(how: signal.Signals, tiny_model: Path, tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    speed = ("bench", "speed", "--quick", "--only", "d", "--model", tiny_model, "--out", out)
    stopped(*speed, scratch=scratch, at="window 1 of 2", how=how)
    assert list(out.iterdir()) == []
    # ONNX Runtime leaves a file of its own there when it is imported.
    assert [path.name for path in scratch.iterdir() if path.name != ".ses"] == []
    mine = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not any(str(scratch).encode() in line for line in mine)
