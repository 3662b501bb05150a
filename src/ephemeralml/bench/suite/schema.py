"""The part of JSON Schema (draft 7) that our result files are described with, to check one before it is written.

Nothing at run time depends on a validator: this knows the keywords of our own schema and refuses any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ephemeralml.bench.errors import BenchError

SCHEMA_FILE: Final = Path(__file__).with_name("suite.schema.json")

_TYPES: Final[Mapping[str, Callable[[object], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_WORDS: Final = frozenset({"$schema", "title", "description", "definitions"})


def schema() -> dict[str, Any]:
    """The schema that every result file of the suite keeps to."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_bytes())
    return loaded


def validate(value: object) -> None:
    """Raises `BenchError` naming the first place of a result that does not keep to the schema."""
    whole = schema()
    _check(value, whole, whole["definitions"], "result")


def _check(value: Any, rule: Mapping[str, Any], definitions: Mapping[str, Any], where: str) -> None:
    for keyword, wanted in rule.items():
        match keyword:
            case "$ref":
                _check(value, definitions[wanted.rpartition("/")[2]], definitions, where)
            case "type":
                kinds = [wanted] if isinstance(wanted, str) else wanted
                _require(any(_TYPES[kind](value) for kind in kinds), where, f"is not {' or '.join(kinds)}")
            case "const":
                same = value == wanted and isinstance(value, bool) is isinstance(wanted, bool)
                _require(same, where, f"is not {wanted!r}")
            case "enum":
                _require(value in wanted, where, f"is none of {wanted}")
            case "pattern" if isinstance(value, str):
                _require(re.search(wanted, value) is not None, where, f"does not match {wanted}")
            case "minimum" if _TYPES["number"](value):
                _require(value >= wanted, where, f"is below {wanted}")
            case "exclusiveMinimum" if _TYPES["number"](value):
                _require(value > wanted, where, f"is not above {wanted}")
            case "minItems" if isinstance(value, list):
                _require(len(value) >= wanted, where, f"has fewer than {wanted} items")
            case "items" if isinstance(value, list):
                for index, item in enumerate(value):
                    _check(item, wanted, definitions, f"{where}[{index}]")
            case "required" if isinstance(value, dict):
                for name in wanted:
                    _require(name in value, where, f"has no {name!r}")
            case "properties" if isinstance(value, dict):
                for name, inner in wanted.items():
                    if name in value:
                        _check(value[name], inner, definitions, f"{where}.{name}")
            case "additionalProperties" if isinstance(value, dict):
                for name in value.keys() - rule.get("properties", {}).keys():
                    _require(wanted is not False, where, f"has {name!r}, which the schema does not know")
                    _check(value[name], wanted, definitions, f"{where}.{name}")
            case "pattern" | "minimum" | "exclusiveMinimum" | "minItems" | "items":
                pass
            case "required" | "properties" | "additionalProperties":
                pass
            case _:
                _require(keyword in _WORDS, where, f"is described with {keyword!r}, which is not checked here")


def _require(holds: bool, where: str, why: str) -> None:
    if not holds:
        raise BenchError(f"{where} {why}", code="bench.schema")
