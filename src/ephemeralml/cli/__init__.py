"""The command line: parse, call, print. Exit status: 0 done, 1 refused or failed, 2 usage, 130 Ctrl-C."""

from __future__ import annotations

import sys
from typing import Final

from ephemeralml.errors import ConfigurationError, EphemeralMLError, PolicyError
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
    # Usage errors, --help and exit statuses are typer's to end with; what remains is ours.
    try:
        # Half a second of imports, in which a Ctrl-C is to be as quiet as later.
        from ephemeralml.cli.commands import make_app  # noqa: PLC0415

        make_app(sys.argv[1:])()
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
        print(f"ephemeralml: this needs {error.name}: pip install 'ephemeralml[{extra}]'", file=sys.stderr)
        status = 1
    sys.exit(status)


def complain(error: EphemeralMLError | OSError) -> None:
    """Say on standard error, in one line, what went wrong."""
    if isinstance(error, EphemeralMLError):
        # It may quote what a host, a service or a file said.
        print(f"ephemeralml: {printable(str(error))} [{printable(error.code)}]", file=sys.stderr)
    else:
        where = f"{error.filename}: " if error.filename else ""
        print(printable(f"ephemeralml: {where}{error.strerror or error}"), file=sys.stderr)
