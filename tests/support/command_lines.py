"""Command lines taken apart: a script's, and the product's own, which its own parser reads without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, Final

import typer

from ephemeralml.cli.commands import make_app

ROOT: Final[Any] = typer.main.get_command(make_app([]))


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, word by word, without what they are given in the environment."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"\bsudo (-u \w+ )?", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()<>"):
                yield words
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a line's words name, and the words that are left for it."""
    command, rest = ROOT, words
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def parse(words: list[str]) -> None:
    """Parse what stands behind `ephemeralml`. Raises the parser's own usage error for what it would refuse."""
    command, rest = command_of(words)
    # `--help` ends the parser, and is always there.
    if "--help" not in rest:
        command.make_context("ephemeralml", list(rest))


def defaults(*words: str) -> dict[str, Any]:
    """The default of each option of a command, by its long name."""
    command, _ = command_of(list(words))
    context = command.make_context("ephemeralml", [], resilient_parsing=True)
    return {name: parameter.default for parameter in command.get_params(context) for name in parameter.opts}
