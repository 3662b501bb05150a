"""What a command prints for programs: one JSON document on standard output, and nothing else there."""

from __future__ import annotations

import json
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, instead of text.")]


def print_json(value: object) -> None:
    """Print a command's result. Whatever is not ASCII is escaped: it may be others' text, and this a terminal."""
    print(json.dumps(value, indent=2))
