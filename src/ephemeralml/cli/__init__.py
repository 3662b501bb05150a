"""The command line: parse, call, print. Exit status: 0 done, 1 refused or failed, 2 usage, 130 Ctrl-C."""

from __future__ import annotations

import sys

import typer

from ephemeralml.cli import embed, enclave, host, inspect, kms, owner, policy, verify
from ephemeralml.cli.demo import demo
from ephemeralml.errors import ConfigurationError, EphemeralMLError, PolicyError

app = typer.Typer(
    name="ephemeralml",
    help="Confidential embeddings: sealed to an attested enclave, answered with a signed receipt.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo)
app.command("keygen")(owner.keygen)
app.command("pack")(owner.pack_model)
app.command("inspect")(inspect.inspect)
app.add_typer(policy.app, name="policy")
app.add_typer(enclave.app, name="enclave")
app.add_typer(host.app, name="host")
app.add_typer(kms.app, name="kms")
app.command("embed")(embed.embed)
app.command("verify")(verify.verify)


def main() -> None:
    """Entry point of the `ephemeralml` command."""
    # Usage errors, --help and exit statuses are typer's to end with; what remains is ours.
    try:
        app()
        status = 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 130
    except EphemeralMLError as error:
        print(f"ephemeralml: {error} [{error.code}]", file=sys.stderr)
        status = 2 if isinstance(error, (ConfigurationError, PolicyError)) else 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"ephemeralml: {where}{error.strerror or error}", file=sys.stderr)
        status = 1
    sys.exit(status)
