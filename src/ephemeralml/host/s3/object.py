"""One object of S3, by ranges, and always the same one: its ETag and size are those of the first answer."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from botocore.response import StreamingBody

from ephemeralml.errors import PackageError
from ephemeralml.host.s3.client import Location, bad_answer, changed, explained, unreachable
from ephemeralml.package.manifest import MAX_MANIFEST_SIZE

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pin:
    """What an object was when it was first seen."""

    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from `start` to before `stop`, on their way."""

    body: StreamingBody
    start: int
    stop: int


class S3Object:
    """The object at `key`, of at most `limit` bytes. Safe to use from several threads."""

    def __init__(self, client: Any, location: Location, key: str, *, limit: int, too_large: str) -> None:
        self.url: Final = location.url(key)
        self._client = client
        self._address = {"Bucket": location.bucket, "Key": key}
        self._limit = limit
        self._too_large = too_large
        self._pin: Pin | None = None
        self._pinning = threading.Lock()

    @property
    def pin(self) -> Pin | None:
        """None before the first answer."""
        return self._pin

    def get(self, start: int, stop: int) -> Range:
        """Ask for the bytes from `start` to before `stop`, or to the end where that is sooner.

        Raises `PackageError`: ``s3.changed`` (another object has its key), ``s3.truncated`` (it ends before `start`),
        the code for one that is too large, and what `explained` makes of S3's failures.
        """
        condition = {"IfMatch": self._pin.etag} if self._pin else {}
        with explained(self.url):
            answer = self._client.get_object(**self._address, Range=f"bytes={start}-{stop - 1}", **condition)
        body: StreamingBody = answer["Body"]
        try:
            return self._checked(answer, body, start, stop)
        except BaseException:
            body.close()
            raise

    def _checked(self, answer: dict[str, Any], body: StreamingBody, start: int, stop: int) -> Range:
        etag, match = answer.get("ETag"), _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if answer["ResponseMetadata"]["HTTPStatusCode"] != 206 or match is None or not etag:
            raise bad_answer(self.url, "it is not the range that was asked for")
        first, last, size = map(int, match.groups())
        if size > self._limit:
            raise PackageError(f"{self.url} is larger than {self._limit} bytes", code=self._too_large)
        stop = min(stop, size)
        if (first, last + 1) != (start, stop) or answer.get("ContentLength") != stop - start:
            raise bad_answer(self.url, "it is not the range that was asked for")
        pin = Pin(etag, size)
        with self._pinning:
            self._pin = self._pin or pin
        if self._pin != pin:
            raise changed(self.url)
        return Range(body, start, stop)


def read_manifest(client: Any, location: Location) -> tuple[bytes, str]:
    """What lies in the manifest's place, and its ETag: 32 KiB at most (``manifest.too_large``, ``s3.…``)."""
    item = S3Object(client, location, location.manifest, limit=MAX_MANIFEST_SIZE, too_large="manifest.too_large")
    got = item.get(0, MAX_MANIFEST_SIZE)
    with closing(got.body), explained(item.url):
        data = got.body.read(got.stop)
    if len(data) != got.stop or item.pin is None:
        raise unreachable(item.url, "it came only in part")
    return data, item.pin.etag
