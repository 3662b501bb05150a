"""Where an operator says a package is: a folder, or a place in S3."""

from __future__ import annotations

from ephemeralml.package import ArtifactSource, FolderSource


def source_of(package: str, *, s3_endpoint: str | None = None) -> ArtifactSource:
    """The source for a folder's path or ``s3://bucket/prefix``. Raises `ConfigurationError` (``s3.…``)."""
    if not package.startswith("s3://"):
        return FolderSource(package)
    # boto3 takes a third of a second, and folders do without it.
    from ephemeralml.host.s3.source import S3Source  # noqa: PLC0415

    return S3Source(package, endpoint_url=s3_endpoint)
