"""Publishing a package: its artifacts first, under keys of their own; then, at once, the manifest that names them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from ephemeralml.errors import PackageError
from ephemeralml.host.s3.checksum import TRANSFER, UPLOAD, file_checksum, holds
from ephemeralml.host.s3.client import Location, explained, make_client
from ephemeralml.host.s3.object import read_manifest
from ephemeralml.host.sources import check_file
from ephemeralml.package import Artifact, FolderSource, Manifest
from ephemeralml.package.source import ARTIFACT_SUFFIX

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes uploaded and their total, from several threads, one at a time."""

# What S3 says of a conditional request that came second.
_OVERTAKEN: Final = frozenset({"s3.changed", "s3.missing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did: `uploaded` bytes of artifacts; the `before` version, None where there was none."""

    manifest: Manifest
    uploaded: int
    published: bool
    before: int | None


def push(
    folder: Path, url: str, *, endpoint_url: str | None = None, progress: Progress = lambda _done, _total: None
) -> Pushed:
    """Upload the package in `folder` to ``s3://bucket/prefix``; what S3 proves to be there already is left as it is.

    Until the manifest is replaced, at the very end, the version before is whole and in force; an interruption leaves
    at most artifacts that nothing names, and the next push goes on from them. Needs s3:GetObject, s3:PutObject,
    s3:AbortMultipartUpload and s3:ListBucket, without which S3 does not tell missing from forbidden.

    Raises `ConfigurationError` for an address that cannot work, and `PackageError`: those of `FolderSource` and
    `Manifest.verify`; ``package.size`` and ``package.mixed`` for a file that is not this manifest's;
    ``push.occupied``, ``.owner``, ``.model``, ``.version`` for what has the place already; ``push.overtaken`` when
    another push was quicker; ``push.artifact`` for an artifact that is another one after its upload; and ``s3.…``.
    """
    signed = FolderSource(folder).manifest()
    work = _Push(Location.parse(url), folder, Manifest.verify(signed, owner=None), signed, make_client(endpoint_url))
    checksums = {artifact: work.checksum(artifact) for artifact in work.manifest.artifacts}
    before = work.published()
    published = before is not None and before[0] == signed
    version = work.check_may_replace(before[0]) if before is not None and not published else None
    missing = {artifact: checksum for artifact, checksum in checksums.items() if not work.is_there(artifact, checksum)}
    work.upload(missing, progress)
    if not published:
        work.publish(None if before is None else before[1])
    uploaded = sum(artifact.ciphertext_size for artifact in missing)
    return Pushed(manifest=work.manifest, uploaded=uploaded, published=not published, before=version)


@dataclass(frozen=True, slots=True)
class _Push:
    location: Location
    folder: Path
    manifest: Manifest
    signed: bytes
    client: Any

    def checksum(self, artifact: Artifact) -> str:
        """What S3 will have as the checksum of the file, which is whole and this package's."""
        check_file(self.folder, self.manifest, artifact)
        with FolderSource(self.folder).open(artifact.name) as read:
            return file_checksum(read, artifact.ciphertext_size)

    def published(self) -> tuple[bytes, str] | None:
        """The manifest that is in force and its ETag, if there is one."""
        try:
            return read_manifest(self.client, self.location)
        except PackageError as error:
            if error.code == "s3.missing":
                return None
            raise

    def check_may_replace(self, signed: bytes) -> int:
        """The version there, which is lower and of the same model."""
        url = self.location.url(self.location.manifest)
        try:
            there = Manifest.verify(signed, owner=None)
        except PackageError as error:
            raise PackageError(
                f"{url} is no manifest this release reads ({error}); choose another prefix", code="push.occupied"
            ) from error
        if there.owner != self.manifest.owner:
            raise PackageError(f"{url} is of another owner's key; choose another prefix", code="push.owner")
        if there.model_id != self.manifest.model_id:
            raise PackageError(
                f"{url} is of another model, {there.model_id}; choose another prefix or pack with --model-id",
                code="push.model",
            )
        if there.version >= self.manifest.version:
            raise PackageError(
                f"{url} is version {there.version}, which this version {self.manifest.version} does not replace; "
                f"pack with --version {there.version + 1} or higher",
                code="push.version",
            )
        return there.version

    def is_there(self, artifact: Artifact, checksum: str) -> bool:
        """Whether S3 has the artifact, these very bytes: whoever may write there could have put others of its size."""
        key = self.location.artifact(self.manifest.package_id, artifact.name)
        try:
            with explained(self.location.url(key)):
                found = self.client.head_object(Bucket=self.location.bucket, Key=key, ChecksumMode="ENABLED")
                return holds(found, checksum, artifact.ciphertext_size)
        except PackageError as error:
            if error.code == "s3.missing":
                return False
            raise

    def upload(self, artifacts: Mapping[Artifact, str], progress: Progress) -> None:
        """Upload them, one after the other, and see that what arrived has their checksums."""
        total = sum(artifact.ciphertext_size for artifact in artifacts)
        done = 0
        counting = threading.Lock()

        def count(size: int) -> None:
            nonlocal done
            with counting:
                done += size
                progress(done, total)

        for artifact, checksum in artifacts.items():
            key = self.location.artifact(self.manifest.package_id, artifact.name)
            with self._path(artifact).open("rb") as file, explained(self.location.url(key)):
                # In parts where it is large; boto3 aborts that upload when it fails or is interrupted.
                self.client.upload_fileobj(
                    file, self.location.bucket, key, ExtraArgs=UPLOAD, Callback=count, Config=TRANSFER
                )
            # The file may have changed under our hands, or the object.
            if not self.is_there(artifact, checksum):
                raise PackageError(
                    f"{self.location.url(key)} is not what was uploaded: it or the file was changed meanwhile, or this "
                    "S3 keeps no SHA-256; push again",
                    code="push.artifact",
                )

    def publish(self, etag: str | None) -> None:
        """Put the manifest in the place of the one with that ETag, or where there is none."""
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        url = self.location.url(self.location.manifest)
        try:
            with explained(url):
                self.client.put_object(
                    Bucket=self.location.bucket, Key=self.location.manifest, Body=self.signed, **condition
                )
        except PackageError as error:
            if error.code not in _OVERTAKEN:
                raise
            # Ours may have come first, and its answer got lost.
            if (now := self.published()) is None or now[0] != self.signed:
                raise PackageError(
                    f"{url} was replaced by another push at the same time; look at what is there, then push again",
                    code="push.overtaken",
                ) from error

    def _path(self, artifact: Artifact) -> Path:
        return self.folder / (artifact.name + ARTIFACT_SUFFIX)
