"""A package in S3 as an `ArtifactSource`: what `push` wrote there, streamed, with no copy on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ephemeralml.errors import PackageError
from ephemeralml.host.s3.client import Location, make_client
from ephemeralml.host.s3.object import S3Object, read_manifest
from ephemeralml.host.s3.reader import PARTS_AHEAD, RangeReader
from ephemeralml.package import Manifest, Reader
from ephemeralml.package.manifest import is_artifact_name
from ephemeralml.package.source import MAX_CIPHERTEXT_SIZE


class S3Source:
    """The package whose manifest is at ``s3://bucket/prefix/manifest.cose`` when it is first read, for good.

    A version that is pushed meanwhile changes nothing here: its artifacts have other keys, and whoever wants it makes
    a new source. An object that is replaced all the same is an error. Needs s3:GetObject and nothing else. Safe to use
    from several threads. Every method raises `PackageError`.
    """

    def __init__(self, url: str, *, endpoint_url: str | None = None) -> None:
        """`endpoint_url` None is AWS's own. Raises `ConfigurationError`."""
        self._location = Location.parse(url)
        self._client = make_client(endpoint_url)
        self._ahead = threading.BoundedSemaphore(PARTS_AHEAD)
        self._lock = threading.Lock()
        self._manifest: tuple[bytes, Manifest] | None = None
        self._objects: dict[str, S3Object] = {}

    def manifest(self) -> bytes:
        """The signed manifest; only its form and its own signature are checked. Codes ``s3.…`` and ``manifest.…``."""
        return self._read_manifest()[0]

    @contextmanager
    def open(self, name: str, *, start: int = 0, size: int | None = None) -> Iterator[Reader]:
        """The encrypted artifact `name` from `start`, at most `size` bytes: ``artifact.name``, ``artifact.unknown``,
        ``artifact.too_large``, ``s3.…``.
        """
        with RangeReader(self._object(name), start=start, size=size, ahead=self._ahead) as reader:
            yield reader.read

    def _object(self, name: str) -> S3Object:
        if not is_artifact_name(name):
            raise PackageError("that is not the name of an artifact", code="artifact.name")
        _, manifest = self._read_manifest()
        # Not any name: an object of its own is kept for each.
        manifest.artifact(name)
        with self._lock:
            if name not in self._objects:
                key = self._location.artifact(manifest.package_id, name)
                self._objects[name] = S3Object(
                    self._client, self._location, key, limit=MAX_CIPHERTEXT_SIZE, too_large="artifact.too_large"
                )
            return self._objects[name]

    def _read_manifest(self) -> tuple[bytes, Manifest]:
        with self._lock:
            if self._manifest is None:
                signed, _ = read_manifest(self._client, self._location)
                self._manifest = signed, Manifest.verify(signed, owner=None)
            return self._manifest
