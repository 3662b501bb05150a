"""S3's SHA-256 of an object is the one computed here, whoever serves S3 and however large the object is."""

from __future__ import annotations

import hashlib
import io
import os
import random
from typing import Any

import pytest
from s3_package import BUCKET

from ephemeralml.host.s3.checksum import PART_BYTES, TRANSFER, UPLOAD, file_checksum, holds


def checksum(data: bytes) -> str:
    file = io.BytesIO(data)
    # As a file may deliver: less than was asked for.
    return file_checksum(lambda size: file.read(random.randint(1, size)), len(data))


def head(client: Any, data: bytes, **options: Any) -> dict[str, Any]:
    client.upload_fileobj(io.BytesIO(data), BUCKET, "a", **options)
    answer: dict[str, Any] = client.head_object(Bucket=BUCKET, Key="a", ChecksumMode="ENABLED")
    return answer


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 20_000_000])
@pytest.mark.parametrize("server", ["owner", "moto_client"])
def test_of_an_upload_s3_has_the_checksum_computed_here(server: str, size: int, request: pytest.FixtureRequest) -> None:
    client, data = request.getfixturevalue(server), os.urandom(size)
    answer = head(client, data, ExtraArgs=UPLOAD, Config=TRANSFER)
    assert holds(answer, checksum(data), size)
    assert not holds(answer, checksum(data), size + 1)
    assert not holds(answer, checksum(data + b"x"), size)
    if size:
        assert not holds(answer, checksum(data[:-1] + bytes([data[-1] ^ 1])), size)


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_without_a_sha256_of_s3s_nothing_is_taken_for_equal(owner: Any, size: int) -> None:
    data = os.urandom(size)
    answer = head(owner, data, Config=TRANSFER)
    assert "ChecksumSHA256" not in answer
    assert not holds(answer, checksum(data), size)


def test_the_digests_of_the_parts_are_not_taken_for_the_parts(owner: Any) -> None:
    data = os.urandom(2 * PART_BYTES)
    digests = b"".join(hashlib.sha256(part).digest() for part in (data[:PART_BYTES], data[PART_BYTES:]))
    answer = head(owner, digests, ExtraArgs=UPLOAD, Config=TRANSFER)
    # Their checksum is the composite one of the data: it is the size that tells.
    assert answer["ChecksumSHA256"] == checksum(data)
    assert not holds(answer, checksum(data), len(data))
