"""KMS commands: key policies, and a local KMS to run and make keys in."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli.key_policy import check, policy
from ephemeralml.cli.policy import read_measurements
from ephemeralml.errors import ConfigurationError
from ephemeralml.texts import printable

if TYPE_CHECKING:
    from ephemeralml.devcloud.kms import Credential

app = typer.Typer(help="Key policies, and a local KMS to try things out.", no_args_is_help=True)
app.command()(policy)
app.command()(check)

ACCOUNT = "000000000000"
OWNER = f"arn:aws:iam::{ACCOUNT}:user/model-owner"
HOST = f"arn:aws:iam::{ACCOUNT}:role/enclave-host"
REGION = "us-east-1"


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="Keys and credentials are kept here.")],
    *,
    root: Annotated[Path, typer.Option(help="Development root whose enclaves may ask (folder).")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 7002,
) -> None:
    """Serve the AWS KMS protocol until stopped. Prints the credentials' file, then each request that it decides.

    Example: ephemeralml kms run kms-data --root dev-root
    """
    from ephemeralml.cli.enclave import development_root, stop  # noqa: PLC0415
    from ephemeralml.devcloud.kms import KmsServer  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    credentials = local_credentials(folder / "credentials")
    server = KmsServer(
        store=folder / "keys.db",
        credentials=credentials,
        roots=[development_root(root).der],
        port=port,
        region=REGION,
        account_id=ACCOUNT,
        on_answer=lambda action, caller, outcome: print(f"kms: {printable(action)} by {caller}: {outcome}", flush=True),
    )
    logging.getLogger("uvicorn.error").addFilter(is_no_stop)
    # In a thread of its own, so that signals are this one's: uvicorn is deaf to them for its first moments.
    with server:
        signal.signal(signal.SIGTERM, stop)
        print(f"kms: serving on {server.url}", flush=True)
        print(
            f"kms: export AWS_SHARED_CREDENTIALS_FILE={folder / 'credentials'} AWS_PROFILE=owner  (or host)", flush=True
        )
        threading.Event().wait()


@app.command("create-key")
def create_key(
    *,
    measurements: Annotated[list[Path], typer.Option(help="JSON from enclave measure; once for each release allowed.")],
    endpoint: Annotated[str, typer.Option(help="The KMS.")] = "http://127.0.0.1:7002",
) -> None:
    """Make a key for these enclaves alone, and print its ARN. Only one with these measurements decrypts with it.

    Example: AWS_PROFILE=owner ephemeralml kms create-key --measurements measurements.json
    """
    from ephemeralml.host.key_policy import key_policy  # noqa: PLC0415
    from ephemeralml.host.kms_keys import KmsKeys  # noqa: PLC0415 - boto3 takes a third of a second

    releases = [read_measurements(path) for path in measurements]
    text = key_policy(measurements=releases, roles=[HOST], admin=OWNER, owner=OWNER)
    print(KmsKeys(region=REGION, endpoint_url=endpoint).create(text, description="EphemeralML model key"))


def is_no_stop(record: logging.LogRecord) -> bool:
    """A filter: uvicorn shows a request that a stop cut off as if it had failed, traceback and all."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def local_credentials(path: Path) -> list[Credential]:
    """The two principals' credentials, in AWS's own file form; made on the first run, readable by this user alone."""
    import configparser  # noqa: PLC0415

    from ephemeralml.devcloud.kms import Credential  # noqa: PLC0415

    parser = configparser.ConfigParser()
    principals = {"owner": OWNER, "host": HOST}
    if not path.exists():
        for name in principals:
            parser[name] = {
                "aws_access_key_id": "AKIA" + secrets.token_hex(8).upper(),
                "aws_secret_access_key": secrets.token_urlsafe(30),
                "region": REGION,
            }
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        try:
            with file:
                parser.write(file)
        except BaseException as error:
            # Half of them would be in the way of the next run.
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise ConfigurationError(f"cannot write {path}: {error.strerror}", code="kms.credentials") from error
            raise
    try:
        parser.read(path)
        return [
            Credential(parser[name]["aws_access_key_id"], parser[name]["aws_secret_access_key"], arn)
            for name, arn in principals.items()
        ]
    except (configparser.Error, KeyError) as error:
        raise ConfigurationError(f"{path} is not a credentials file: {error}", code="kms.credentials") from error
