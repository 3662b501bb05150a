"""The local S3: run it."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A local S3 that checks signatures, for trying things out.", no_args_is_help=True)


@app.callback()
def _s3() -> None:
    """Keeps `run` a command of its own."""


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="Objects are kept here.")],
    *,
    bucket: Annotated[list[str], typer.Option(help="A bucket it has; may be given more than once.")],
    credentials: Annotated[
        Path | None, typer.Option(help="Credentials' file, such as kms run's; made when it does not exist.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 7003,
) -> None:
    """Serve the S3 protocol until stopped. Profile owner writes, profile host only reads.

    Example: ephemeralml s3 run s3-data --bucket models --credentials kms-data/credentials
    """
    from ephemeralml.cli.enclave import stop  # noqa: PLC0415
    from ephemeralml.cli.kms import REGION, is_no_stop, local_credentials  # noqa: PLC0415
    from ephemeralml.devcloud.s3 import S3Server  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    path = credentials or folder / "credentials"
    owner, host = local_credentials(path)
    server = S3Server(folder / "buckets", buckets=bucket, writers=[owner], readers=[host], port=port, region=REGION)
    logging.getLogger("uvicorn.error").addFilter(is_no_stop)
    # In a thread of its own, so that signals are this one's.
    with server:
        signal.signal(signal.SIGTERM, stop)
        print(f"s3: serving on {server.url}", flush=True)
        print(f"s3: export AWS_SHARED_CREDENTIALS_FILE={path} AWS_PROFILE=owner  (or host)", flush=True)
        threading.Event().wait()
