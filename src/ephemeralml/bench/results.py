"""Result files: which kind one is, and whether this release reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ephemeralml.errors import ConfigurationError

SPEED: Final = "ephemeralml.bench.speed"
SUITE: Final = "ephemeralml.bench.suite"
VERSIONS: Final = {SPEED: 1, SUITE: 1}
"""What this release writes and reads."""

_COMMANDS: Final = {SPEED: "ephemeralml bench speed", SUITE: "ephemeralml bench run"}


def kind_of(path: Path) -> str:
    """`SPEED` or `SUITE`. Raises `ConfigurationError` for anything else."""
    return str(_load(path)["schema"])


def read(path: Path, kind: str) -> dict[str, Any]:
    """A result file of that kind and of this version. Raises `ConfigurationError` for anything else."""
    value = _load(path)
    if value["schema"] != kind:
        raise ConfigurationError(f"{path} is not a result of `{_COMMANDS[kind]}`", code="bench.result")
    if value.get("schema_version") != VERSIONS[kind]:
        raise ConfigurationError(
            f"{path} has schema version {value.get('schema_version')!r:.20}, this release reads {VERSIONS[kind]}: "
            "measure again",
            code="bench.version",
        )
    return value


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}", code="bench.result") from error
    if not isinstance(value, dict) or value.get("schema") not in _COMMANDS:
        raise ConfigurationError(f"{path} is not a result of `ephemeralml bench`", code="bench.result")
    return value
