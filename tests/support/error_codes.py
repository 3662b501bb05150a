"""Every code that an error of this package can have, read from its source: constants, and what they are made from.

A code is a keyword ``code=`` of a call. Where that is no constant it is followed back: through f-strings, constants of
the module, dictionaries, local names, and parameters to each call of their function. What it cannot follow it says.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Scope:
    """Where an expression stands."""

    module: Module
    function: Function | None
    owner: str = ""


@dataclass(frozen=True, eq=False)
class Module:
    """A file's syntax tree, its imported names, its classes' bases, and its calls."""

    path: Path
    tree: ast.Module
    names: set[str]
    bases: dict[str, list[str]]
    calls: list[tuple[ast.Call, Scope]] = field(default_factory=list)


class Codes:
    """The codes of all files under a folder, and what could not be followed: ``file:line expression``."""

    def __init__(self, folder: Path) -> None:
        self.found: set[str] = set()
        self.unknown: set[str] = set()
        self._folder = folder
        self._modules = [_read(path) for path in sorted(folder.rglob("*.py"))]
        for module in self._modules:
            for call, scope in module.calls:
                # There it is a metric's label.
                for keyword in [] if _name(call.func) == "sample" else call.keywords:
                    if keyword.arg == "code":
                        self.found |= self._values(keyword.value, scope)
            self.found |= set(_defaults(module.tree))

    def _values(self, node: ast.expr | None, scope: Scope, seen: frozenset[object] = frozenset()) -> set[str]:
        """The texts that an expression can be; `seen` are the names on the way to it."""
        match node:
            case ast.Constant(value=str(text)):
                return {text}
            # Another error's: counted where that is raised.
            case ast.Attribute(attr="code") | ast.Constant(value=None) | None:
                return set()
            case ast.IfExp(body=one, orelse=other):
                return self._values(one, scope, seen) | self._values(other, scope, seen)
            case ast.BoolOp(values=several):
                return set().union(*(self._values(one, scope, seen) for one in several))
            case ast.JoinedStr(values=parts):
                return self._joined([_part(part) for part in parts], scope, seen)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="replace"), args=[old, new]):
                before, after = ast.literal_eval(old), ast.literal_eval(new)
                return {text.replace(before, after) for text in self._named(name, scope, seen)}
            case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[_, *default]):
                return set().union(*(self._values(one, scope, seen) for one in (*_members(table, scope), *default)))
            case ast.Subscript(value=table):
                return set().union(*(self._values(one, scope, seen) for one in _members(table, scope)))
            case ast.Name(id=name):
                return self._named(name, scope, seen)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._attribute(name, scope, seen)
        return self._lost(node, scope)

    def _joined(self, parts: list[ast.expr], scope: Scope, seen: frozenset[object]) -> set[str]:
        if scope.function is not None:
            used = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
            used &= set(_parameters(scope.function))
            # Two parameters belong together as one call gives them.
            if len(used) > 1:
                joined: set[str] = set()
                for call, where in self._calls_of(scope):
                    given = {name: self._values(_argument(call, name, scope), where, seen) for name in used}
                    joined |= self._product([_filled(part, given) for part in parts], scope, seen)
                return joined
        return self._product(parts, scope, seen)

    def _product(self, parts: Sequence[ast.expr | set[str]], scope: Scope, seen: frozenset[object]) -> set[str]:
        each = []
        for part in parts:
            if isinstance(part, set):
                each.append(part)
            elif _is_anothers(part):
                each.append({"…"})
            else:
                each.append(self._values(part, scope, seen))
        if not all(each):
            return self._lost(ast.Constant(" + ".join(map(str, each))), scope)
        return {"".join(chosen) for chosen in product(*each)}

    def _named(self, name: str, scope: Scope, seen: frozenset[object]) -> set[str]:
        key = (name, scope.function or scope.module)
        if key in seen:
            return set()
        seen |= {key}
        if scope.function is not None:
            if assigned := list(_assigned(name, scope.function, scope)):
                return set().union(*(self._values(one, scope, seen) for one in assigned))
            if name in _parameters(scope.function):
                return self._passed(name, scope, seen)
        if constant := _constant(name, scope.module):
            return self._values(constant, Scope(scope.module, None), seen)
        return self._lost(ast.Name(id=name, lineno=scope.function.lineno if scope.function else 0), scope)

    def _passed(self, name: str, scope: Scope, seen: frozenset[object]) -> set[str]:
        """What the callers of a function give for its parameter `name`."""
        values: set[str] = set()
        for call, where in self._calls_of(scope):
            if (given := _argument(call, name, scope)) is not None:
                values |= self._values(given, where, seen)
        return values

    def _calls_of(self, scope: Scope) -> Iterator[tuple[ast.Call, Scope]]:
        """The calls of a scope's function, or of its class, in every module that can name it."""
        assert scope.function is not None
        made = scope.function.name == "__init__"
        called = scope.owner if made else scope.function.name
        for module in self._modules:
            if module is scope.module or called in module.names:
                for call, where in module.calls:
                    if made and _name(call.func) == "__init__" and called in module.bases.get(where.owner, ()):
                        yield call, where
                    on_self = isinstance(call.func, ast.Attribute) and _name(call.func.value) == "self"
                    if _name(call.func) == called and on_self == (bool(scope.owner) and not made):
                        yield call, where

    def _attribute(self, name: str, scope: Scope, seen: frozenset[object]) -> set[str]:
        for node in ast.walk(scope.module.tree):
            if isinstance(node, ast.ClassDef) and node.name == scope.owner:
                for function in node.body:
                    if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                        inside = Scope(scope.module, function, node.name)
                        found = [
                            one.value
                            for one in ast.walk(function)
                            if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == f"self.{name}"
                        ]
                        return set().union(*(self._values(one, inside, seen) for one in found))
        return self._lost(ast.Name(id=f"self.{name}"), scope)

    def _lost(self, node: ast.expr, scope: Scope) -> set[str]:
        where = scope.module.path.relative_to(self._folder)
        self.unknown.add(f"{where}: {ast.unparse(node)}")
        return {"…"}


def _read(path: Path) -> Module:
    tree = ast.parse(path.read_text("utf-8"))
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    bases = {node.name: list(map(_name, node.bases)) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    module = Module(path, tree, names, bases)
    _collect(tree, Scope(module, None), module)
    return module


def _collect(node: ast.AST, scope: Scope, module: Module) -> None:
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, Function):
            inner = Scope(module, child, scope.owner)
        elif isinstance(child, ast.ClassDef):
            inner = Scope(module, None, child.name)
        elif isinstance(child, ast.Call):
            module.calls.append((child, scope))
        _collect(child, inner, module)


def _defaults(tree: ast.Module) -> Iterator[str]:
    """What a class takes for its ``code`` when none is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            for parameter, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                if parameter.arg == "code" and isinstance(default, ast.Constant) and isinstance(default.value, str):
                    yield default.value


def _argument(call: ast.Call, name: str, scope: Scope) -> ast.expr | None:
    """What a call gives for a parameter, if anything."""
    assert scope.function is not None
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    place = [one for one in _parameters(scope.function) if one not in {"self", "cls"}].index(name)
    return call.args[place] if place < len(call.args) else None


def _is_anothers(part: ast.expr) -> bool:
    """Whether it is the code that another end has sent, which can be any."""
    match part:
        case ast.Attribute(attr="code") | ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value="code")]):
            return True
    return False


def _filled(part: ast.expr, given: dict[str, set[str]]) -> ast.expr | set[str]:
    match part:
        case ast.Name(id=name) if name in given:
            return given[name]
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="replace"), args=[old, new]) if name in given:
            return {text.replace(ast.literal_eval(old), ast.literal_eval(new)) for text in given[name]}
    return part


def _part(part: ast.expr) -> ast.expr:
    return part.value if isinstance(part, ast.FormattedValue) else part


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _constant(name: str, module: Module) -> ast.expr | None:
    for node in module.tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(_name(target) == name for target in targets):
            return node.value
    return None


def _members(table: ast.expr, scope: Scope) -> Iterator[ast.expr]:
    """The values of a dictionary that a module has, `dict.fromkeys` in it included."""
    value = _constant(table.id, scope.module) if isinstance(table, ast.Name) else table
    if isinstance(value, ast.Dict):
        for key, member in zip(value.keys, value.values, strict=True):
            yield from [member] if key is not None else [member.args[1]] if isinstance(member, ast.Call) else []


def _assigned(name: str, function: Function, scope: Scope) -> Iterator[ast.expr]:
    """What a local name is bound to, by assignment or by a loop over constants."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=bound)], value=value) if bound == name:
                yield value
            case ast.Assign(targets=[ast.Tuple(elts=several)], value=value):
                yield from _unpacked(name, several, [value], scope)
            case ast.For(target=ast.Name(id=bound), iter=ast.Tuple(elts=values)) if bound == name:
                yield from values
            case ast.For(target=ast.Tuple(elts=several), iter=ast.Tuple(elts=values)):
                yield from _unpacked(name, several, values, scope)


def _unpacked(name: str, targets: list[ast.expr], values: list[ast.expr], scope: Scope) -> Iterator[ast.expr]:
    places = [index for index, target in enumerate(targets) if _name(target) == name]
    for place in places:
        for value in values:
            yield from (item.elts[place] for item in _tuples(value, scope) if isinstance(item, ast.Tuple))


def _tuples(value: ast.expr, scope: Scope) -> Iterator[ast.expr]:
    match value:
        case ast.Tuple():
            yield value
        case ast.Name(id=name) if (constant := _constant(name, scope.module)) is not None:
            yield from _tuples(constant, scope)
        case ast.IfExp(body=one, orelse=other):
            yield from _tuples(one, scope)
            yield from _tuples(other, scope)
        case ast.Subscript(value=table):
            for member in _members(table, scope):
                yield from _tuples(member, scope)
        case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[_, *default]):
            for member in (*_members(table, scope), *default):
                yield from _tuples(member, scope)
