"""Publish a package in S3."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.cli.progress import progress_bar


def push(
    package: Annotated[Path, typer.Argument(help="The encrypted package's folder, from pack.")],
    to: Annotated[str, typer.Argument(metavar="S3_URL", help="s3://bucket/prefix: one model's place.")],
    *,
    s3_endpoint: Annotated[str | None, typer.Option(help="Another S3 than AWS's (see s3 run).")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a package. Artifacts first, the manifest last; never over a version as high or higher.

    Example: ephemeralml push package s3://my-models/minilm
    """
    from ephemeralml.host.s3.push import push as upload  # noqa: PLC0415 - boto3 takes a third of a second

    with progress_bar("uploading") as progress:
        done = upload(package, to, endpoint_url=s3_endpoint, progress=progress)
    manifest = done.manifest
    if as_json:
        print_json(
            {
                "model_id": manifest.model_id,
                "version": manifest.version,
                "model_digest": manifest.digest.hex(),
                "url": to,
                "published": done.published,
                "replaced_version": done.before,
                "uploaded_bytes": done.uploaded,
            }
        )
        return
    if not done.uploaded and not done.published:
        print(f"{manifest.model_id} version {manifest.version} is at {to} already: nothing was uploaded")
        return
    instead = f" in place of version {done.before}" if done.before is not None else ""
    print(f"pushed {manifest.model_id} version {manifest.version} to {to}{instead}: {done.uploaded:,} bytes uploaded")
    print(f"model digest {manifest.digest.hex()}")
