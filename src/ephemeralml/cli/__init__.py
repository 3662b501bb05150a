"""The command line: parse, call, print. Exit status: 0 done, 1 refused or failed, 2 usage, 130 interrupted."""

from __future__ import annotations

import json
import signal
import sys
from typing import Final

from ephemeralml.errors import ConfigurationError, EphemeralMLError, PolicyError, docs_link
from ephemeralml.texts import printable

# What only some commands need, and the extra that brings it.
_EXTRAS: Final = {
    "boto3": "host",
    "botocore": "host",
    "onnxruntime": "enclave",
    "openvino": "fast",
    "starlette": "devcloud",
    "tokenizers": "enclave",
    "uvicorn": "devcloud",
}


def main() -> None:
    """Entry point of the `ephemeralml` command."""
    # An interruption like Ctrl-C: what is half done is undone, and no process is left behind. Servers set their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Usage errors, --help and exit statuses are typer's to end with; what remains is ours.
    try:
        # Half a second of imports, in which a Ctrl-C is to be as quiet as later.
        from ephemeralml.cli.commands import completed_words, make_app  # noqa: PLC0415

        # The name is the same however Python was started: shells complete it, and help shows it.
        make_app(completed_words() or sys.argv[1:])(prog_name="ephemeralml")
        status = 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 130
    except (EphemeralMLError, OSError) as error:
        complain(error)
        status = 2 if isinstance(error, (ConfigurationError, PolicyError)) else 1
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        # The same server under two commands.
        extra = "gateway" if sys.argv[1:2] == ["gateway"] else extra
        _say(f"this needs {error.name}: pip install 'ephemeralml[{extra}]'", None)
        status = 1
    sys.exit(status)


def complain(error: EphemeralMLError | OSError) -> None:
    """Say on standard error, in one line, what went wrong: text, or JSON for who asked for JSON."""
    if isinstance(error, EphemeralMLError):
        _say(str(error), error.code)
    else:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}", None)


def _say(message: str, code: str | None) -> None:
    docs = None if code is None else docs_link(code)
    if _wants_json(sys.argv[1:]):
        line = json.dumps({"error": message, "code": code, "docs": docs})
    else:
        # It may quote what a host, a service or a file said.
        line = printable(f"ephemeralml: {message}" if code is None else f"ephemeralml: {message} [{code}] {docs}")
    print(line, file=sys.stderr)


def _wants_json(arguments: list[str]) -> bool:
    # What comes after -- is no option.
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options
