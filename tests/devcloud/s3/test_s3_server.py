"""The local S3 as unchanged boto3 sees it, and as whoever tampers with a request does."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from connecting import connecting

from ephemeralml.devcloud.s3 import S3Server
from ephemeralml.devcloud.sigv4 import Credential
from ephemeralml.errors import ConfigurationError

OWNER = Credential("AKIDOWNER", "owner-secret", "arn:aws:iam::000000000000:user/owner")
HOST = Credential("AKIDHOST", "host-secret", "arn:aws:iam::000000000000:role/host")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3", buckets=["models"], writers=[OWNER], readers=[HOST]) as running:
        yield running


@pytest.fixture
def connect(server: S3Server) -> Iterator[Callable[..., Any]]:
    with connecting(boto3.session.Session(), "s3", server.url) as make:
        yield make


@pytest.fixture
def owner(connect: Callable[..., Any]) -> Any:
    return connect(OWNER)


def refusal(call: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def contents(tmp_path: Path) -> int:
    """Files with bytes of objects, whole or not."""
    return len(list((tmp_path / "s3" / "models" / "contents").iterdir()))


@pytest.mark.parametrize("key", ["a", "a/b/c.enc", "a b+c%d/é", "../up", "x" * 1000])
def test_an_object_comes_back_whole_and_by_ranges(owner: Any, key: str) -> None:
    data = os.urandom(3_000_000)
    etag = owner.put_object(Bucket="models", Key=key, Body=data)["ETag"]
    assert etag == f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
    head = owner.head_object(Bucket="models", Key=key)
    assert (head["ETag"], head["ContentLength"]) == (etag, len(data))
    assert owner.get_object(Bucket="models", Key=key)["Body"].read() == data
    for asked, expected in (("0-9", data[:10]), ("2999999-", data[-1:]), ("5-99999999", data[5:])):
        answer = owner.get_object(Bucket="models", Key=key, Range=f"bytes={asked}", IfMatch=etag)
        start = len(data) - len(expected) if asked != "0-9" else 0
        assert answer["ContentRange"] == f"bytes {start}-{start + len(expected) - 1}/{len(data)}"
        assert answer["Body"].read() == expected


def test_a_large_object_goes_up_in_parts(owner: Any, tmp_path: Path) -> None:
    data = os.urandom(20_000_000)
    owner.upload_fileobj(io.BytesIO(data), "models", "a")
    assert owner.head_object(Bucket="models", Key="a")["ETag"].endswith('-3"')
    out = io.BytesIO()
    owner.download_fileobj("models", "a", out)
    assert out.getvalue() == data
    assert list((tmp_path / "s3" / "models" / "uploads").iterdir()) == []


def test_an_upload_that_is_aborted_leaves_nothing(owner: Any, tmp_path: Path) -> None:
    address = {"Bucket": "models", "Key": "a"}
    upload = owner.create_multipart_upload(**address)["UploadId"]
    part = owner.upload_part(**address, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    for wrong in ({"Key": "b"}, {"UploadId": "../" + upload}, {"UploadId": "0" * 32}):
        call = {**address, "UploadId": upload, "MultipartUpload": parts, **wrong}
        assert refusal(lambda: owner.complete_multipart_upload(**call))[0] == "NoSuchUpload"  # noqa: B023
    for etag, number, code in (
        ('"' + "0" * 32 + '"', 1, "InvalidPart"),
        ("../key", 1, "InvalidPart"),
        (part, 2, "InvalidPart"),
    ):
        wrong_parts = {"Parts": [{"PartNumber": number, "ETag": etag}]}
        call = {**address, "UploadId": upload, "MultipartUpload": wrong_parts}
        assert refusal(lambda: owner.complete_multipart_upload(**call))[0] == code  # noqa: B023
    owner.abort_multipart_upload(**address, UploadId=upload)
    assert refusal(lambda: owner.upload_part(**address, UploadId=upload, PartNumber=1, Body=b"x"))[0] == "NoSuchUpload"
    assert contents(tmp_path) == 0
    assert refusal(lambda: owner.get_object(**address)) == ("NoSuchKey", 404)


def test_conditions(owner: Any, tmp_path: Path) -> None:
    address = {"Bucket": "models", "Key": "a"}
    failed = ("PreconditionFailed", 412)
    assert refusal(lambda: owner.put_object(**address, Body=b"1", IfMatch='"x"'))[0] == "NoSuchKey"
    etag = owner.put_object(**address, Body=b"1", IfNoneMatch="*")["ETag"]
    assert refusal(lambda: owner.put_object(**address, Body=b"2", IfNoneMatch="*")) == failed
    assert refusal(lambda: owner.put_object(**address, Body=b"2", IfMatch='"x"')) == failed
    assert refusal(lambda: owner.get_object(**address, IfMatch='"x"')) == failed
    assert owner.get_object(**address)["Body"].read() == b"1"
    owner.put_object(**address, Body=b"2", IfMatch=etag)
    assert owner.get_object(**address)["Body"].read() == b"2"
    # Neither what was refused nor what was replaced is left.
    assert contents(tmp_path) == 1


def test_who_reads_keeps_what_he_began_with(owner: Any) -> None:
    data = os.urandom(5_000_000)
    owner.put_object(Bucket="models", Key="a", Body=data)
    body = owner.get_object(Bucket="models", Key="a")["Body"]
    first = body.read(10)
    owner.put_object(Bucket="models", Key="a", Body=b"other")
    assert first + body.read() == data


def test_objects_outlive_the_server(tmp_path: Path, owner: Any) -> None:
    owner.put_object(Bucket="models", Key="a", Body=b"1")
    with S3Server(tmp_path / "s3", buckets=["models"], writers=[OWNER], readers=[]) as again:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=again.url,
            region_name="us-east-1",
            aws_access_key_id=OWNER.access_key_id,
            aws_secret_access_key=OWNER.secret_access_key,
        )
        assert client.get_object(Bucket="models", Key="a")["Body"].read() == b"1"
        client.close()


def test_a_reader_may_get_objects_and_nothing_else(owner: Any, connect: Callable[..., Any]) -> None:
    reader = connect(HOST)
    owner.put_object(Bucket="models", Key="a", Body=b"1")
    assert reader.get_object(Bucket="models", Key="a")["Body"].read() == b"1"
    denied = ("AccessDenied", 403)
    for call in (
        lambda: reader.put_object(Bucket="models", Key="a", Body=b"2"),
        lambda: reader.create_multipart_upload(Bucket="models", Key="a"),
        lambda: reader.get_object(Bucket="models", Key="b"),
    ):
        assert refusal(call) == denied
    assert owner.get_object(Bucket="models", Key="a")["Body"].read() == b"1"


def test_what_there_is_not(owner: Any) -> None:
    assert refusal(lambda: owner.get_object(Bucket="models", Key="a")) == ("NoSuchKey", 404)
    assert refusal(lambda: owner.get_object(Bucket="others", Key="a")) == ("NoSuchBucket", 404)
    assert refusal(lambda: owner.put_object(Bucket="others", Key="a", Body=b"1")) == ("NoSuchBucket", 404)
    for call in (
        lambda: owner.list_objects_v2(Bucket="models"),
        lambda: owner.get_object_acl(Bucket="models", Key="a"),
        lambda: owner.delete_object(Bucket="models", Key="a"),
    ):
        assert refusal(call) == ("NotImplemented", 501)
    owner.put_object(Bucket="models", Key="a", Body=b"")
    assert refusal(lambda: owner.get_object(Bucket="models", Key="a", Range="bytes=0-1")) == ("InvalidRange", 416)


def test_signatures_that_are_none(connect: Callable[..., Any]) -> None:
    def code(credential: Credential, **changes: str) -> tuple[str, int]:
        return refusal(lambda: connect(credential, **changes).get_object(Bucket="models", Key="a"))

    assert code(OWNER, secret="wrong") == ("SignatureDoesNotMatch", 403)
    assert code(Credential("AKIDNOBODY", "x", OWNER.principal_arn)) == ("InvalidAccessKeyId", 403)


def signed(server: S3Server, method: str, target: str, body: bytes = b"", **headers: str) -> dict[str, str]:
    request = AWSRequest(method, server.url + target, headers=headers, data=body)
    credentials = Credentials(OWNER.access_key_id, OWNER.secret_access_key)
    S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())


def send(server: S3Server, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


def test_a_body_is_the_one_that_was_signed(server: S3Server, tmp_path: Path) -> None:
    headers = signed(server, "PUT", "/models/a", b"good")
    assert send(server, "PUT", "/models/a", b"good", headers)[0] == 200
    for tampered in (b"evil", b"", b"good and more"):
        status, said = send(server, "PUT", "/models/a", tampered, headers)
        assert (status, b"XAmzContentSHA256Mismatch" in said) == (400, True)
    # Nor may the claim be exchanged with the body.
    headers["X-Amz-Content-SHA256"] = hashlib.sha256(b"evil").hexdigest()
    assert b"SignatureDoesNotMatch" in send(server, "PUT", "/models/a", b"evil", headers)[1]
    assert contents(tmp_path) == 1


@pytest.mark.parametrize("claim", ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x"])
def test_a_payload_that_is_not_signed_is_refused(server: S3Server, claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3SigV4Auth, "payload", lambda *_: claim)
    status, said = send(server, "PUT", "/models/a", b"x", signed(server, "PUT", "/models/a", b"x"))
    assert (status, b"NotImplemented" in said) == (501, True)


@pytest.mark.parametrize("name", ["x-amz-checksum-crc32", "x-amz-checksum-sha256"])
def test_a_checksum_is_checked(server: S3Server, name: str, tmp_path: Path) -> None:
    headers = signed(server, "PUT", "/models/a", b"x", **{name: "AAAAAA=="})
    status, said = send(server, "PUT", "/models/a", b"x", headers)
    assert (status, b"BadDigest" in said) == (400, True)
    assert contents(tmp_path) == 0


def base64_sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_a_sha256_is_shown_to_whoever_asks_of_an_object_that_came_with_one(owner: Any) -> None:
    address = {"Bucket": "models", "Key": "a"}
    assert owner.put_object(**address, Body=b"x", ChecksumAlgorithm="SHA256")["ChecksumSHA256"] == base64_sha256(b"x")
    answer = owner.head_object(**address, ChecksumMode="ENABLED")
    assert (answer["ChecksumSHA256"], answer["ChecksumType"]) == (base64_sha256(b"x"), "FULL_OBJECT")
    assert "ChecksumSHA256" not in owner.head_object(**address)
    owner.put_object(**address, Body=b"x")
    assert "ChecksumSHA256" not in owner.head_object(**address, ChecksumMode="ENABLED")


def test_the_sha256_of_parts_is_composite_and_asked_of_each(owner: Any, tmp_path: Path) -> None:
    address = {"Bucket": "models", "Key": "a"}
    upload = {**address, "UploadId": owner.create_multipart_upload(**address, ChecksumAlgorithm="SHA256")["UploadId"]}
    assert refusal(lambda: owner.upload_part(**upload, PartNumber=1, Body=b"x"))[0] == "InvalidRequest"
    sent = [
        owner.upload_part(**upload, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256")
        for number, body in enumerate((b"x", b"y"), 1)
    ]
    parts = [{"PartNumber": number, "ETag": part["ETag"]} for number, part in enumerate(sent, 1)]
    claims: tuple[dict[str, str], ...] = ({}, {"ChecksumSHA256": base64_sha256(b"z")})
    for claim in claims:
        wrong = [part | claim for part in parts]
        call = {**upload, "MultipartUpload": {"Parts": wrong}}
        assert refusal(lambda: owner.complete_multipart_upload(**call))[0] == "InvalidPart"  # noqa: B023
    assert contents(tmp_path) == 0
    right = [part | {"ChecksumSHA256": answer["ChecksumSHA256"]} for part, answer in zip(parts, sent, strict=True)]
    owner.complete_multipart_upload(**upload, MultipartUpload={"Parts": right})
    answer = owner.head_object(**address, ChecksumMode="ENABLED")
    digests = hashlib.sha256(b"x").digest() + hashlib.sha256(b"y").digest()
    assert (answer["ChecksumSHA256"], answer["ChecksumType"]) == (f"{base64_sha256(digests)}-2", "COMPOSITE")


def test_unsigned_requests_and_requests_for_another_object(server: S3Server) -> None:
    assert send(server, "GET", "/models/a", b"", {})[0] == 403
    headers = signed(server, "GET", "/models/a")
    assert b"NoSuchKey" in send(server, "GET", "/models/a", b"", headers)[1]
    assert b"SignatureDoesNotMatch" in send(server, "GET", "/models/b", b"", headers)[1]
    assert b"SignatureDoesNotMatch" in send(server, "GET", "/models/a?uploads", b"", headers)[1]


@pytest.mark.parametrize("asked", ["bytes=-5", "bytes=0-1,3-4", "lines=1-2", "bytes=x"])
def test_ranges_of_other_forms(server: S3Server, asked: str) -> None:
    send(server, "PUT", "/models/a", b"0123456789", signed(server, "PUT", "/models/a", b"0123456789"))
    status, _ = send(server, "GET", "/models/a", b"", signed(server, "GET", "/models/a", Range=asked))
    assert status == 501


def test_places_that_cannot_work(tmp_path: Path, server: S3Server) -> None:
    port = int(server.url.rpartition(":")[2])
    (tmp_path / "file").write_text("")
    for code, folder, bucket, at in (
        ("s3.address", tmp_path / "a", "models", port),
        ("s3.address", tmp_path / "a", "models", 70000),
        ("s3.bucket", tmp_path / "a", "../models", 0),
        ("s3.folder", tmp_path / "file", "models", 0),
    ):
        with pytest.raises(ConfigurationError) as caught:
            S3Server(folder, buckets=[bucket], writers=[], readers=[], port=at)
        assert caught.value.code == code
