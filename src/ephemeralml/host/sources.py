"""Where an operator says a package is: a folder, or a place in S3."""

from __future__ import annotations

from pathlib import Path

from ephemeralml.errors import PackageError
from ephemeralml.package import Artifact, ArtifactSource, FolderSource, Manifest
from ephemeralml.package.source import ARTIFACT_SUFFIX
from ephemeralml.package.stream import HEADER_SIZE, make_header


def source_of(package: str, *, s3_endpoint: str | None = None) -> ArtifactSource:
    """The source for a folder's path or ``s3://bucket/prefix``. Raises `ConfigurationError` (``s3.…``)."""
    if not package.startswith("s3://"):
        return FolderSource(package)
    # boto3 takes a third of a second, and folders do without it.
    from ephemeralml.host.s3.source import S3Source  # noqa: PLC0415

    return S3Source(package, endpoint_url=s3_endpoint)


def check_file(folder: Path, manifest: Manifest, artifact: Artifact) -> None:
    """See that the artifact's file is whole and of this package, as far as its size and header tell.

    Raises `PackageError`: ``package.size``, ``package.mixed`` and those of `FolderSource`.
    """
    path = folder / (artifact.name + ARTIFACT_SUFFIX)
    # FolderSource opens what is a regular file and nothing else.
    with FolderSource(folder).open(artifact.name) as read:
        if path.stat().st_size != artifact.ciphertext_size:
            raise PackageError(
                f"{path} is not of the size its manifest names; the package is damaged, pack it again",
                code="package.size",
            )
        salt, chunk_size = artifact.salt, artifact.chunk_size
        if read(HEADER_SIZE) != make_header(package_id=manifest.package_id, salt=salt, chunk_size=chunk_size):
            raise PackageError(f"{path} is a file of another package; pack it again", code="package.mixed")
