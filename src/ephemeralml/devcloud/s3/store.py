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
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ephemeralml.devcloud.s3.api_error import S3Error

_COPY_BYTES: Final = 1 << 20
_SHA256: Final = "sha256"  # Marks an upload's folder.
_PART_ETAG: Final = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the index says of one key. `etag` is quoted, as S3 shows it; `content` is a file's name.

    `sha256` is what S3 has of an object that was uploaded with that checksum, in base64: with the count of parts behind
    it where it is composite, of the parts' digests.
    """

    key: str
    etag: str
    size: int
    modified: float
    content: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A body that is on disk and not yet part of any object; `sha256`, in base64, where it came with that checksum."""

    path: Path
    md5: bytes
    size: int
    sha256: str | None = None


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

    def create_upload(self, bucket: str, key: str, *, sha256: bool) -> str:
        """A multipart upload's id; with `sha256` every part needs that checksum."""
        upload = secrets.token_hex(16)
        folder = self._bucket(bucket) / "uploads" / upload
        folder.mkdir()
        (folder / "key").write_text(key)
        if sha256:
            (folder / _SHA256).touch()
        return upload

    def put_part(self, bucket: str, key: str, upload: str, number: int, received: Received) -> str:
        """Add a part; its quoted ETag. Raises `S3Error` (NoSuchUpload, InvalidRequest)."""
        folder = self._upload(bucket, key, upload)
        if (folder / _SHA256).exists() and received.sha256 is None:
            raise S3Error("InvalidRequest", "The upload was created using a sha256 checksum.", status=400)
        received.path.replace(folder / f"{number}.{received.md5.hex()}")
        return f'"{received.md5.hex()}"'

    def complete_upload(
        self, bucket: str, key: str, upload: str, parts: Sequence[tuple[int, str, str | None]]
    ) -> StoredObject:
        """Join `parts`, (number, quoted ETag, SHA-256) in order, into the object. Raises `S3Error` (InvalidPart …)."""
        folder = self._upload(bucket, key, upload)
        numbers = [number for number, _, _ in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise S3Error("InvalidPartOrder", "The list of parts was not in ascending order.", status=400)
        joined = self.incoming(bucket)
        composite = (folder / _SHA256).exists()
        md5s = sha256s = b""
        try:
            with joined.open("xb") as out:
                for number, etag, claimed in parts:
                    match = _PART_ETAG.fullmatch(etag)
                    path = folder / f"{number}.{match[1] if match else ''}"
                    if match is None or not path.is_file():
                        raise _invalid_part()
                    with path.open("rb") as part:
                        if composite:
                            sha256 = hashlib.file_digest(part, "sha256").digest()
                            if claimed != b64encode(sha256).decode():
                                raise _invalid_part()
                            sha256s += sha256
                            part.seek(0)
                        shutil.copyfileobj(part, out, _COPY_BYTES)
                    md5s += bytes.fromhex(match[1])
                size = out.tell()
        except BaseException:
            joined.unlink(missing_ok=True)
            raise
        md5 = hashlib.md5(md5s, usedforsecurity=False).digest()
        checksum = f"{b64encode(hashlib.sha256(sha256s).digest()).decode()}-{len(parts)}" if composite else None
        received = Received(joined, md5, size, checksum)
        stored = self._replace(bucket, _stored(key, f'"{md5.hex()}-{len(parts)}"', received))
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
    modified = received.path.stat().st_mtime
    return StoredObject(key, etag, received.size, modified, received.path.name, received.sha256)


def _invalid_part() -> S3Error:
    return S3Error("InvalidPart", "One or more of the specified parts could not be found.", status=400)
