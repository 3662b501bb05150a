"""Shell completion: what each shell is given, and a bash at a terminal that completes commands, choices and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal

from ephemeralml.cli.commands import completed_words

Complete = Callable[..., list[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a shell that finds `ephemeralml`, whatever is installed here."""
    program = tmp_path / "bin" / "ephemeralml"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ephemeralml.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "here").mkdir()
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def _script(shell: str, environment: dict[str, str]) -> str:
    """What `--show-completion` prints, in that shell."""
    asking = environment | {"_EPHEMERALML_COMPLETE": f"source_{shell}"}
    return subprocess.run(["ephemeralml"], env=asking, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def complete(tmp_path: Path, environment: dict[str, str]) -> Complete:
    """What the function that bash is given offers for words of which the last is at the cursor."""
    script = tmp_path / "completion.bash"
    script.write_text(_script("bash", environment))
    asked = f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ephemeralml_completion "$1"; '

    def call(*words: str) -> list[str]:
        command = ["bash", "--norc", "-c", asked + 'printf "%s\\n" "${COMPREPLY[@]}"', "bash", "ephemeralml", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return call


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ke",), ["keygen"]),
        # The first of two that begin alike is not taken for the whole word.
        (("inspect",), ["inspect", "inspector"]),
        (("image", "d"), ["describe", "diff"]),
        (("host", "run", "--platform", ""), ["local", "nitro", "vm"]),
        (("pack", "--precision", "b"), ["bf16"]),
        (("verify", "x.aer", "--j"), ["--json"]),
        # Files are bash's own to find.
        (("verify", ""), []),
    ],
)
def test_bash_is_offered(complete: Complete, words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_every_command_is_offered(complete: Complete) -> None:
    assert {"demo", "pack", "embed", "verify", "host", "gateway", "bench"} <= set(complete(""))


def test_a_bash_at_a_terminal_completes_commands_choices_and_files(tmp_path: Path, environment: dict[str, str]) -> None:
    here = tmp_path / "here"
    (here / "proof-of-answer.aer").touch()
    (tmp_path / "completion.bash").write_text(_script("bash", environment))
    with Terminal(["bash", "--norc", "-i"], environment=environment | {"PS1": "$ "}, folder=here) as terminal:
        terminal.wait_for("$ ")
        terminal.type(f"source {tmp_path}/completion.bash\n")
        # The line is cleared each time: nothing runs.
        for typed, completed in (
            ("ephemeralml keyg\t", "ephemeralml keygen "),
            ("ephemeralml pack --precision in\t", "--precision int8 "),
            ("ephemeralml verify pro\t", "verify proof-of-answer.aer "),
        ):
            terminal.type(typed)
            terminal.wait_for(completed)
            terminal.type("\x15")


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_a_shell_reads_its_script(tmp_path: Path, environment: dict[str, str], shell: str, check: str) -> None:
    script = _script(shell, environment)
    assert f"_EPHEMERALML_COMPLETE=complete_{shell}" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its completion script is made, and not read")
    (tmp_path / "script").write_text(script)
    done = subprocess.run([shell, check, tmp_path / "script"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, []),
        ({"COMP_WORDS": "ephemeralml\nhost\n", "COMP_CWORD": "2"}, []),
        ({"_EPHEMERALML_COMPLETE": "complete_bash", "COMP_WORDS": "ephemeralml\nhost\n", "COMP_CWORD": "2"}, ["host"]),
        ({"_EPHEMERALML_COMPLETE": "complete_bash", "COMP_WORDS": "ephemeralml\nhost", "COMP_CWORD": "1"}, []),
        ({"_EPHEMERALML_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "ephemeralml host "}, ["host"]),
        ({"_EPHEMERALML_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "ephemeralml ho"}, []),
        ({"_EPHEMERALML_COMPLETE": "complete_bash", "COMP_CWORD": "x"}, []),
    ],
)
def test_words_before_the_cursor(monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], words: list[str]) -> None:
    for name in ("_EPHEMERALML_COMPLETE", "COMP_WORDS", "COMP_CWORD", "_TYPER_COMPLETE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert completed_words() == words
