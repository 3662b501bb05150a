"""Objects as files: a small index file for each key, replaced whole, names the file with the content.

So a reader who has opened an object keeps that one, whatever is put in its place meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ephemeralml.devcloud.s3.api_error import S3Error

_COPY_BYTES: Final = 1 << 20
_PART_ETAG: Final = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the index says of one key. `etag` is quoted, as S3 shows it; `content` is a file's name."""

    key: str
    etag: str
    size: int
    modified: float
    content: str


@dataclass(frozen=True, slots=True)
class Received:
    """A body that is on disk and not yet part of any object."""

    path: Path
    md5: bytes
    size: int


class ObjectStore:
    """The buckets below one folder. Safe to use from several threads of one process."""

    def __init__(self, folder: Path, *, buckets: Sequence[str]) -> None:
        self._folder = folder
        self._buckets = frozenset(buckets)
        self._writing = threading.Lock()
        for bucket in buckets:
            for part in ("objects", "contents", "uploads"):
                (folder / bucket / part).mkdir(parents=True, exist_ok=True)

    def find(self, bucket: str, key: str) -> StoredObject:
        """The object. Raises `S3Error` (NoSuchBucket, NoSuchKey)."""
        found = self._find(bucket, key)
        if found is None:
            raise S3Error("NoSuchKey", "The specified key does not exist.", status=404)
        return found

    def open(self, bucket: str, key: str) -> tuple[StoredObject, BinaryIO]:
        """The object and its content, the caller's to close. Raises `S3Error` (NoSuchBucket, NoSuchKey)."""
        with self._writing:
            found = self.find(bucket, key)
            return found, (self._bucket(bucket) / "contents" / found.content).open("rb", buffering=0)

    def incoming(self, bucket: str) -> Path:
        """A new file's path for a body. Raises `S3Error` (NoSuchBucket)."""
        return self._bucket(bucket) / "contents" / secrets.token_hex(16)

    def put(
        self, bucket: str, key: str, received: Received, *, if_match: str | None = None, if_none_match: bool = False
    ) -> StoredObject:
        """Make a received body the object, at once; `if_match` is an ETag. Raises `S3Error` (PreconditionFailed)."""
        stored = _stored(key, f'"{received.md5.hex()}"', received)
        return self._replace(bucket, stored, if_match=if_match, if_none_match=if_none_match)

    def create_upload(self, bucket: str, key: str) -> str:
        """A multipart upload's id."""
        upload = secrets.token_hex(16)
        folder = self._bucket(bucket) / "uploads" / upload
        folder.mkdir()
        (folder / "key").write_text(key)
        return upload

    def put_part(self, bucket: str, key: str, upload: str, number: int, received: Received) -> str:
        """Add a part; its quoted ETag. Raises `S3Error` (NoSuchUpload)."""
        folder = self._upload(bucket, key, upload)
        received.path.replace(folder / f"{number}.{received.md5.hex()}")
        return f'"{received.md5.hex()}"'

    def complete_upload(self, bucket: str, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> StoredObject:
        """Join `parts`, (number, quoted ETag) in order, into the object. Raises `S3Error` (InvalidPart …)."""
        folder = self._upload(bucket, key, upload)
        if not parts or [number for number, _ in parts] != sorted({number for number, _ in parts}):
            raise S3Error("InvalidPartOrder", "The list of parts was not in ascending order.", status=400)
        joined = self.incoming(bucket)
        digests = b""
        with joined.open("xb") as out:
            for number, etag in parts:
                match = _PART_ETAG.fullmatch(etag)
                path = folder / f"{number}.{match[1] if match else ''}"
                if match is None or not path.is_file():
                    joined.unlink()
                    raise S3Error("InvalidPart", "One or more of the specified parts could not be found.", status=400)
                with path.open("rb") as part:
                    shutil.copyfileobj(part, out, _COPY_BYTES)
                digests += bytes.fromhex(match[1])
            size = out.tell()
        md5 = hashlib.md5(digests, usedforsecurity=False).digest()
        stored = self._replace(bucket, _stored(key, f'"{md5.hex()}-{len(parts)}"', Received(joined, md5, size)))
        shutil.rmtree(folder)
        return stored

    def abort_upload(self, bucket: str, key: str, upload: str) -> None:
        """Forget the upload and its parts. Raises `S3Error` (NoSuchUpload)."""
        shutil.rmtree(self._upload(bucket, key, upload))

    def uploads(self, bucket: str) -> list[str]:
        """The ids of the multipart uploads under way."""
        return sorted(path.name for path in (self._bucket(bucket) / "uploads").iterdir())

    def _replace(
        self, bucket: str, stored: StoredObject, *, if_match: str | None = None, if_none_match: bool = False
    ) -> StoredObject:
        index = self._index(bucket, stored.key)
        with self._writing:
            before = self._find(bucket, stored.key)
            if if_match is not None and before is None:
                raise S3Error("NoSuchKey", "The specified key does not exist.", status=404)
            if (if_none_match and before is not None) or (if_match is not None and before and before.etag != if_match):
                raise S3Error(
                    "PreconditionFailed",
                    "At least one of the pre-conditions you specified did not hold",
                    status=412,
                )
            new = index.with_suffix(".new")
            new.write_text(json.dumps(asdict(stored)))
            new.replace(index)
        if before is not None:
            (self._bucket(bucket) / "contents" / before.content).unlink()
        return stored

    def _find(self, bucket: str, key: str) -> StoredObject | None:
        try:
            return StoredObject(**json.loads(self._index(bucket, key).read_text()))
        except FileNotFoundError:
            return None

    def _index(self, bucket: str, key: str) -> Path:
        # A key may be longer than a file's name, and hold anything.
        return self._bucket(bucket) / "objects" / hashlib.sha256(key.encode()).hexdigest()

    def _upload(self, bucket: str, key: str, upload: str) -> Path:
        folder = self._bucket(bucket) / "uploads" / upload
        if upload not in self.uploads(bucket) or (folder / "key").read_text() != key:
            raise S3Error("NoSuchUpload", "The specified upload does not exist.", status=404)
        return folder

    def _bucket(self, bucket: str) -> Path:
        if bucket not in self._buckets:
            raise S3Error("NoSuchBucket", "The specified bucket does not exist", status=404)
        return self._folder / bucket


def _stored(key: str, etag: str, received: Received) -> StoredObject:
    return StoredObject(key, etag, received.size, received.path.stat().st_mtime, received.path.name)
