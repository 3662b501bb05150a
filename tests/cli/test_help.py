"""Every command's help: an example, no line wider than a terminal of 80 columns, no list with words cut off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from ephemeralml.cli.commands import make_app

from .conftest import Run

_ESCAPE = "\x1b"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command's words and typer's object for it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))


ALL = dict(_commands(get_command(make_app([]))))
# Those that do something themselves and do not only hold others; of them, those that cannot without being told more.
DOING = [path for path, it in ALL.items() if not getattr(it, "commands", {}) or it.invoke_without_command]
NEEDY = [path for path in DOING if path == ("gateway",) or any(one.required for one in ALL[path].params)]


@pytest.fixture(autouse=True)
def terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_commands_are_found() -> None:
    assert {("pack",), ("host", "run"), ("gateway",), ("gateway", "key"), ("bench", "report")} <= set(DOING)
    assert ("image",) not in DOING
    assert ("demo",) not in NEEDY


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_and_has_an_example(run: Run, path: tuple[str, ...]) -> None:
    status, out, err = run(*path, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(" ".join(("Usage: ephemeralml", *path)))
    assert max(map(len, out.splitlines())) <= 80
    assert _ESCAPE not in out
    # What a list of commands says of each is a whole sentence.
    assert not re.search(r"[\w,;] ?\.\.\.$", out, re.MULTILINE)
    if path in DOING:
        # Some need a variable before them.
        assert re.search(rf"Example: ([A-Z_]+=\w+ )?ephemeralml {' '.join(path)}\b", " ".join(out.split()))


def test_help_says_the_exit_statuses(run: Run) -> None:
    _, out, _ = run("--help")
    assert "0 done, 1 refused or failed, 2 usage, 130 stopped" in " ".join(out.split())
    assert "docs/errors.md" in out


@pytest.mark.parametrize("path", DOING, ids=" ".join)
def test_misuse_of_any_command_is_status_2_and_nothing_on_standard_output(run: Run, path: tuple[str, ...]) -> None:
    status, out, err = run(*path, "--no-such-option")
    assert (status, out) == (2, "")
    assert "--no-such-option" in err


@pytest.mark.parametrize("path", NEEDY, ids=" ".join)
def test_what_a_command_needs_and_is_not_given_is_status_2(run: Run, path: tuple[str, ...]) -> None:
    status, out, err = run(*path)
    assert (status, out) == (2, "")
    assert "issing" in err
