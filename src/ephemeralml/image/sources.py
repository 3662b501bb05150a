"""Which of this package's own files go into the image: what the enclave's process can import, and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ENTRY: Final = "ephemeralml.enclave.__main__"
FOLDER: Final = Path(__file__).parents[1]
INIT: Final = "enclave/init.py"


def enclave_sources(folder: Path = FOLDER, *, program: str = ENTRY) -> dict[str, Path]:
    """The files by their place under `folder`, in order: the closure of imports from `program`, wherever they stand.

    Imports for type checkers alone do not count. Raises OSError and SyntaxError.
    """
    found: dict[str, Path] = {}
    waiting = [program]
    while waiting:
        name = waiting.pop()
        # A package's own file runs before any module of it.
        waiting += [parent] if (parent := name.rpartition(".")[0]) else []
        path = _path(folder, name)
        if path is None or (place := path.relative_to(folder).as_posix()) in found:
            continue
        found[place] = path
        waiting += _imports(ast.parse(path.read_bytes(), str(path)))
    return dict(sorted(found.items()))


def _path(folder: Path, name: str) -> Path | None:
    """The file of a module of ours; None for an attribute of one, or for somebody else's module."""
    first, *rest = name.split(".")
    if first != folder.name:
        return None
    module = folder.joinpath(*rest)
    candidates = (module / "__init__.py", module.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for other in node.orelse:
                    yield from _imports(ast.Module([other], []))
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case _:
                yield from _imports(node)
