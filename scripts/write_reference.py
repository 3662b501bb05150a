#!/usr/bin/env python3
"""Write docs/reference/ from the code: the command line from every command's help, the Python API from its docstrings.

`make reference`; tests/docs/test_reference.py fails while a page is not what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final

import typer

import ephemeralml
from ephemeralml import image
from ephemeralml.cli.commands import make_app

FOLDER: Final = Path(__file__).parents[1] / "docs" / "reference"

_CLI: Final = """# Command line

Every command, as its own `--help` has it."""
_PYTHON: Final = """# Python

What `import ephemeralml` and `from ephemeralml import image` give. What is not here may change with any release."""
_EXAMPLE: Final = re.compile(r"(.*:) ((?:[A-Z_]+=\S+ )*ephemeralml .*)")
_COLUMNS: Final = 100


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    return {"cli.md": _page(_CLI, _command_line()), "python.md": _page(_PYTHON, _python())}


def _page(introduction: str, parts: Iterable[str]) -> str:
    return "\n\n".join(["<!-- Written by `make reference`: change the code instead. -->", introduction, *parts]) + "\n"


def _command_line() -> Iterator[str]:
    root = typer.main.get_command(make_app([]))
    commands = list(_commands(root, "ephemeralml"))
    yield _table(
        ["command", "what it does"],
        ((f"[`{name}`](#{name.replace(' ', '-')})", _text(_paragraphs(command)[0])) for name, command in commands),
    )
    for name, command in commands:
        context = command.make_context(name, [], resilient_parsing=True)
        yield f"## {name}"
        yield _fence("text", context.get_usage().removeprefix("Usage: "))
        for paragraph in _paragraphs(command):
            example = _EXAMPLE.fullmatch(paragraph)
            yield f"{_text(example[1])}\n\n{_fence('sh', example[2])}" if example else _text(paragraph)
        records = (parameter.get_help_record(context) for parameter in command.get_params(context))
        rows = [(_code(record[0]), _text(record[1])) for record in records if record and record[0] != "--help"]
        if rows:
            yield _table(["argument or option", "meaning"], rows)


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, command in group.commands.items():
        inner = hasattr(command, "commands")
        if not inner or command.invoke_without_command:
            yield f"{name} {word}", command
        if inner:
            yield from _commands(command, f"{name} {word}")


def _python() -> Iterator[str]:
    public = {name: getattr(ephemeralml, name) for name in ephemeralml.__all__}
    errors = {name: value for name, value in public.items() if inspect.isclass(value) and issubclass(value, Exception)}
    for name in (name for name in public if name not in errors):
        yield from _described(name, public[name])
    yield "## Errors"
    for name, error in sorted(errors.items(), key=lambda item: len(item[1].__mro__)):
        base = error.__mro__[1].__name__
        yield f"### {name}"
        yield f"A `{base}`. {inspect.getdoc(error)}" if base in errors else str(inspect.getdoc(error))
    yield f"## image\n\n{inspect.getdoc(image)}"
    for name in image.__all__:
        yield from _described(f"image.{name}", getattr(image, name), level=3)


def _described(name: str, value: Any, *, level: int = 2) -> Iterator[str]:
    short = name.rpartition(".")[2]
    yield f"{'#' * level} {name}"
    if inspect.isclass(value) and issubclass(value, Enum):
        members = [f"{short}.{item.name} = {item.value!r}" for item in value]
        yield f"{inspect.getdoc(value)}\n\n{_fence('python', *members)}"
        return
    yield f"{_fence('python', _signature(short, value))}\n\n{inspect.getdoc(value)}"
    for member, found in vars(value).items() if inspect.isclass(value) else ():
        if member.startswith("_") or inspect.ismemberdescriptor(found):
            continue
        whole = f"{short}.{member}"
        shown = (
            f"{whole}: {found.fget.__annotations__['return']}"
            if isinstance(found, property)
            else _signature(whole, found)
        )
        yield f"{'#' * (level + 1)} {whole}\n\n{_fence('python', shown)}\n\n{inspect.getdoc(found)}"


def _signature(name: str, value: Any) -> str:
    signature = inspect.signature(getattr(value, "__func__", value))
    pieces: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in pieces:
            pieces.append("*")
        # Annotations are strings, which would show with quotes.
        pieces.append(str(parameter.replace(annotation=_Bare(parameter.annotation))))
    if not inspect.isclass(value) and not isinstance(value, staticmethod) and "." in name:
        del pieces[0]
    returns = "" if inspect.isclass(value) else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(pieces)}){returns}"
    return (
        line
        if len(line) <= _COLUMNS
        else "\n".join([f"{name}(", *(f"    {piece}," for piece in pieces), f"){returns}"])
    )


class _Bare(str):
    __slots__ = ()
    __repr__ = str.__str__


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in command.help.split("\n\n")]


def _fence(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(head: list[str], rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"| {left} | {right} |" for left, right in [head, ("---", "---"), *rows])


def _code(text: str) -> str:
    # In HTML, since Markdown's readers differ in how a cell's code spells a bar.
    return f"<code>{_escaped(text)}</code>" if "|" in text else f"`{text}`"


def _text(text: str) -> str:
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else _escaped(piece).replace("*", "\\*") for piece in pieces)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")


if __name__ == "__main__":
    main()
