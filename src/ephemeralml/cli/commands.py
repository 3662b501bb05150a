"""Every command under its name; only the one that is wanted is imported, since a cold start waits for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import typer

_COMMANDS: Final = {
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "keygen": "owner:keygen",
    "model": "model:model",
    "pack": "owner:pack_model",
    "rewrap": "owner:rewrap_package",
    "push": "push:push",
    "inspect": "inspect:inspect",
    "policy": "policy:app",
    "enclave": "enclave:app",
    "host": "host:app",
    "top": "top:top",
    "kms": "kms:app",
    "s3": "s3:app",
    "image": "image:app",
    "embed": "embed:embed",
    "gateway": "gateway:app",
    "verify": "verify:verify",
    "inspector": "inspector:inspector",
    "bench": "bench:app",
}

_HELP: Final = "Confidential embeddings: sealed to an attested enclave, answered with a signed receipt."
_EPILOG: Final = (
    "Exit status: 0 done, 1 refused or failed, 2 usage, 130 stopped with Ctrl-C or SIGTERM. An error ends with its "
    "code and the place in docs/errors.md that explains it. --json prints one JSON document; NO_COLOR without colours."
)
# The variable by which a shell asks: typer's, for this name.
_COMPLETING: Final = "_EPHEMERALML_COMPLETE"


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line for these arguments: the command they begin with, or else all of them."""
    app = typer.Typer(
        name="ephemeralml",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    # A callback of its own keeps an application of one command from becoming that command.
    app.callback(help=_HELP, epilog=_EPILOG)(_start)
    first = arguments[0] if arguments else ""
    for name in [first] if first in _COMMANDS else _COMMANDS:
        module, attribute = _COMMANDS[name].split(":")
        command = getattr(import_module(f"ephemeralml.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def completed_words() -> list[str]:
    """When a shell asks for completions: the words before the one at the cursor, without the program's name."""
    if _COMPLETING not in os.environ:
        return []
    # bash gives its words one a line and the cursor's place; zsh and fish give the line up to the cursor.
    if (place := os.environ.get("COMP_CWORD", "")).isdecimal():
        return os.environ.get("COMP_WORDS", "").split("\n")[1 : int(place)]
    return os.environ.get("_TYPER_COMPLETE_ARGS", "").split(" ")[1:-1]


def _start() -> None:
    """Nothing precedes a command."""
