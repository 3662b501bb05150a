"""The local KMS: run it, make a key whose policy names an enclave."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli.policy import read_measurements
from ephemeralml.errors import ConfigurationError, KeyReleaseError

if TYPE_CHECKING:
    from ephemeralml.devcloud.kms import Credential

app = typer.Typer(help="A local KMS with real cryptography, for trying things out.", no_args_is_help=True)

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
    """Serve the AWS KMS protocol until stopped; prints the credentials' file.

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
    """Make a key that only an enclave with these measurements can decrypt with; prints its ARN.

    Example: AWS_PROFILE=owner ephemeralml kms create-key --measurements measurements.json
    """
    import boto3  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    pcr0 = [read_measurements(path).pcr0.hex() for path in measurements]
    try:
        client = boto3.client("kms", endpoint_url=endpoint, region_name=REGION)
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"no KMS client for {endpoint}: {error}", code="kms.client") from error
    try:
        key = client.create_key(Policy=json.dumps(key_policy(pcr0)), Description="EphemeralML model key")
        print(key["KeyMetadata"]["Arn"])
    except ClientError as error:
        raise KeyReleaseError(f"KMS at {endpoint} refused: {error}", code="kms.refused") from error
    except BotoCoreError as error:
        raise KeyReleaseError(f"no key from {endpoint}: {error}", code="kms.unreachable") from error
    # What botocore makes of an answer that is not KMS's.
    except (ResponseParserError, LookupError, TypeError) as error:
        raise KeyReleaseError(f"{endpoint} does not answer as KMS does", code="kms.answer") from error


def is_no_stop(record: logging.LogRecord) -> bool:
    """A filter: uvicorn shows a request that a stop cut off as if it had failed, traceback and all."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def key_policy(pcr0: list[str]) -> dict[str, object]:
    """The owner wraps and governs; the host's role decrypts for an attested image alone."""
    attested = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": pcr0}}
    govern = ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy", "kms:GenerateDataKey"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": govern, "Resource": "*"},
            {
                "Effect": "Allow",
                "Principal": {"AWS": HOST},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": attested,
            },
        ],
    }


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
