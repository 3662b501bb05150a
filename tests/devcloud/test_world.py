"""What a failed process of the deployment says is quoted as the error that it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeralml.devcloud.world import Process, WorldError, run


def test_a_failed_commands_last_line_is_quoted_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(WorldError) as caught:
        run("inspect", str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/manifest.cose is missing")
    assert "[package.missing]" in str(caught.value)


def test_so_is_that_of_a_process_that_was_waited_for(tmp_path: Path) -> None:
    with (
        Process("inspect", str(tmp_path), log=tmp_path / "log") as process,
        pytest.raises(WorldError) as caught,
    ):
        process.wait_for("package")
    assert str(caught.value).startswith(f"{tmp_path}/manifest.cose is missing")
