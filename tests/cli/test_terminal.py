"""What a command draws, and where: colours and bars at a terminal, none in a file, none where they are not wanted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import Terminal

# Select Graphic Rendition with a colour in it: 30 to 49, 90 to 107 (ECMA-48, section 8.3.117).
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10[0-7])(?:;\d+)*m")
DOCTOR = [sys.executable, "-m", "ephemeralml.cli", "doctor", "--platform", "nitro", "--relay", "tcp://127.0.0.1:0"]
BARS = {
    "bytes": "from ephemeralml.cli.progress import progress_bar\n"
    "with progress_bar('uploading') as done: done(1_500_000, 2_000_000); done(2_000_000, 2_000_000)",
    "texts": "from ephemeralml.client.progress import progress_bar\nwith progress_bar(20) as done: done(20)",
}
SHOWN = {"bytes": "2.0/2.0 MB", "texts": "20/20 texts"}


def _environment(changes: dict[str, str]) -> dict[str, str]:
    """Ours without what speaks of terminals, and with `changes`."""
    about = {"NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"}
    return {name: value for name, value in os.environ.items() if name not in about} | changes


def _at_a_terminal(command: list[str], folder: Path, changes: dict[str, str]) -> str:
    with Terminal(command, environment=_environment(changes), folder=folder) as terminal:
        return terminal.end()[1]


def _into_a_file(command: list[str], changes: dict[str, str]) -> str:
    environment = _environment({"TERM": "xterm-256color"} | changes)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    assert COLOUR.search(_at_a_terminal(DOCTOR, tmp_path, {}))


@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colours_gets_none(tmp_path: Path, changes: dict[str, str]) -> None:
    shown = _at_a_terminal(DOCTOR, tmp_path, changes)
    assert "nitro: not ready" in shown
    assert not COLOUR.search(shown)


@pytest.mark.parametrize("command", [DOCTOR, [*DOCTOR, "--json"], [*DOCTOR[:3], "--help"], [*DOCTOR[:3], "verify"]])
def test_a_file_gets_no_escape_sequence(command: list[str]) -> None:
    said = _into_a_file(command, {})
    assert said
    assert "\x1b" not in said


def test_a_file_gets_colours_where_they_are_forced() -> None:
    assert COLOUR.search(_into_a_file(DOCTOR, {"FORCE_COLOR": "1"}))


def test_json_is_plain_even_where_colours_are_forced(tmp_path: Path) -> None:
    assert "\x1b" not in _into_a_file([*DOCTOR, "--json"], {"FORCE_COLOR": "1"})
    assert "\x1b" not in _at_a_terminal([*DOCTOR, "--json"], tmp_path, {})


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_is_drawn_at_a_terminal(tmp_path: Path, bar: str) -> None:
    assert SHOWN[bar] in re.sub(
        r"\x1b\[[0-9;?]*[a-zA-Z]", "", _at_a_terminal([sys.executable, "-c", BARS[bar]], tmp_path, {})
    )


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_without_colours_is_still_a_bar(tmp_path: Path, bar: str) -> None:
    shown = _at_a_terminal([sys.executable, "-c", BARS[bar]], tmp_path, {"NO_COLOR": "1"})
    assert SHOWN[bar] in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert not COLOUR.search(shown)


@pytest.mark.parametrize("bar", BARS)
def test_no_bar_is_drawn_where_nothing_can_be_redrawn(tmp_path: Path, bar: str) -> None:
    command = [sys.executable, "-c", BARS[bar]]
    assert _at_a_terminal(command, tmp_path, {"TERM": "dumb"}) == ""
    assert _into_a_file(command, {}) == ""
    # As the runners of continuous integration set it.
    assert _into_a_file(command, {"FORCE_COLOR": "1"}) == ""
