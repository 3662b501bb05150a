"""What a long-running command says: lines for people on standard error, or one JSON object a line on standard output.

All of it goes through `logging`. Code that has more to say than a sentence gives `extra={"event": …, "fields": {…}}`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import typer

from ephemeralml.texts import printable

# An enclave's words are whoever's reached the host's services.
_MOST_CHARACTERS: Final = 2000
_OURS: Final = "ephemeralml"


class LogFormat(StrEnum):
    """How a command that goes on says what happens."""

    TEXT = "text"
    JSON = "json"


LogOption: TypeAlias = Annotated[
    LogFormat, typer.Option("--log-format", help="json: an object a line, on standard output.")
]


class Log:
    """The events of one command, `name`: the one place where its lines are made."""

    def __init__(self, name: str, form: LogFormat) -> None:
        """From here on libraries' warnings are its lines as well."""
        self._logger = logging.getLogger(f"{_OURS}.{name}")
        handler = logging.StreamHandler(sys.stdout if form is LogFormat.JSON else sys.stderr)
        handler.setFormatter(_Json() if form is LogFormat.JSON else _Text(name))
        logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
        logging.getLogger(_OURS).setLevel(logging.INFO)
        # Whoever read these lines has gone: no reason for a traceback.
        logging.raiseExceptions = False

    def say(self, event: str, *, level: int = logging.INFO, **fields: object) -> None:
        """An event and what belongs to it: never a text, a key or what is inside a record."""
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
        self._logger.log(level, "%s", f"{event} {told}".strip(), extra={"event": event, "fields": fields})

    def warn(self, event: str, **fields: object) -> None:
        """An event that somebody may have to look after."""
        self.say(event, level=logging.WARNING, **fields)


class _Text(logging.Formatter):
    """``host: ready relay tcp://…``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._name}: {_sentence(record)}"


class _Json(logging.Formatter):
    """``{"time": …, "level": …, "event": …, …}``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None) or _sentence(record),
        }
        if not _is_ours(record):
            line["logger"] = record.name
        return json.dumps(line | {name: _value(value) for name, value in getattr(record, "fields", {}).items()})


def _sentence(record: logging.LogRecord) -> str:
    # Of what others log only the first line: asyncio and uvicorn go on with values and a traceback, and those may hold
    # anything.
    message = record.getMessage() if _is_ours(record) else record.getMessage().partition("\n")[0]
    error = record.exc_info[1] if record.exc_info else None
    return printable(message, _MOST_CHARACTERS) + (f" ({type(error).__name__})" if error else "")


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == _OURS


def _value(value: object) -> object:
    return value if isinstance(value, bool | int | float) else printable(str(value), _MOST_CHARACTERS)
