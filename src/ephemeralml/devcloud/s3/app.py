"""S3's REST protocol, path style: objects and multipart uploads, signed with SigV4, payloads included."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from base64 import b64encode
from binascii import crc32
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from html import escape, unescape
from typing import BinaryIO, Final
from urllib.parse import parse_qsl, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ephemeralml.devcloud.s3.api_error import S3Error, access_denied, not_implemented, signature_refused
from ephemeralml.devcloud.s3.store import ObjectStore, Received, StoredObject
from ephemeralml.devcloud.sigv4 import SignatureRefusedError, SignedRequest, Verifier

MAX_PART_BYTES: Final = 5 << 30  # S3's own limit, of PutObject and of a part
_MAX_XML_BYTES: Final = 1 << 20
_SEND_BYTES: Final = 1 << 20

_RANGE: Final = re.compile(r"bytes=(\d{1,19})-(\d{0,19})", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PART: Final = re.compile(r"<Part>(.*?)</Part>", re.DOTALL)
_PART_NUMBER: Final = re.compile(r"<PartNumber>(\d{1,5})</PartNumber>", re.ASCII)
_PART_ETAG: Final = re.compile(r"<ETag>(.*?)</ETag>", re.DOTALL)
_PART_SHA256: Final = re.compile(r"<ChecksumSHA256>(.*?)</ChecksumSHA256>", re.DOTALL)
_CHECKSUM: Final = "x-amz-checksum-sha256"


class Api:
    """What this server does for one store; `writers` are the principals that may do more than GetObject."""

    def __init__(self, store: ObjectStore, *, verifier: Verifier, writers: frozenset[str]) -> None:
        self._store = store
        self._verifier = verifier
        self._writers = writers

    async def answer(self, request: Request) -> Response:
        """Raises `S3Error` and `SignatureRefusedError`."""
        writes = self._caller(request) in self._writers
        bucket, _, key = unquote(request.scope["raw_path"].decode("latin-1")).removeprefix("/").partition("/")
        if not key:
            raise not_implemented("An operation on a bucket")
        query = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if not writes and request.method not in {"GET", "HEAD"}:
            raise access_denied()
        match request.method, sorted(query):
            case "GET" | "HEAD" as method, []:
                try:
                    return self._get(request, bucket, key) if method == "GET" else self._head(request, bucket, key)
                except S3Error as error:
                    # Without s3:ListBucket nobody learns what is not there.
                    raise (access_denied() if error.code == "NoSuchKey" and not writes else error) from None
            case "PUT", []:
                return await self._put(request, bucket, key)
            case "POST", ["uploads"]:
                composite = request.headers.get("x-amz-checksum-algorithm") == "SHA256"
                upload = self._store.create_upload(bucket, key, sha256=composite)
                return _xml("InitiateMultipartUploadResult", {"Bucket": bucket, "Key": key, "UploadId": upload})
            case "PUT", ["partNumber", "uploadId"]:
                return await self._put_part(request, bucket, key, query)
            case "POST", ["uploadId"]:
                parts = _parts(await _small_body(request))
                stored = await run_in_threadpool(self._store.complete_upload, bucket, key, query["uploadId"], parts)
                return _xml("CompleteMultipartUploadResult", {"Bucket": bucket, "Key": key, "ETag": stored.etag})
            case "DELETE", ["uploadId"]:
                self._store.abort_upload(bucket, key, query["uploadId"])
                return Response(status_code=204)
        raise not_implemented("This operation")

    def _caller(self, request: Request) -> str:
        payload_hash = request.headers.get("x-amz-content-sha256", "")
        signed = SignedRequest(
            method=request.method,
            path=request.scope["raw_path"].decode("latin-1"),
            query=request.scope["query_string"].decode("latin-1"),
            headers=request.headers.items(),
            payload_hash=payload_hash,
        )
        caller = self._verifier.verify(signed, now=datetime.now(UTC))
        # boto3 signs payloads wherever TLS does not protect them, and there is no TLS here.
        if _SHA256.fullmatch(payload_hash) is None:
            raise not_implemented("A payload that is not signed as one")
        return caller.principal_arn

    def _head(self, request: Request, bucket: str, key: str) -> Response:
        found = self._store.find(bucket, key)
        headers = _headers(found, found.size)
        if request.headers.get("x-amz-checksum-mode") == "ENABLED" and found.sha256 is not None:
            headers |= {_CHECKSUM: found.sha256, "x-amz-checksum-type": _checksum_type(found.sha256)}
        return Response(headers=headers)

    def _get(self, request: Request, bucket: str, key: str) -> Response:
        found, content = self._store.open(bucket, key)
        try:
            if request.headers.get("if-match", found.etag) != found.etag:
                raise S3Error(
                    "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", status=412
                )
            start, stop = 0, found.size
            if "range" in request.headers:
                start, stop = _range(request.headers["range"], found.size)
            headers = _headers(found, stop - start)
            if "range" in request.headers:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
            content.seek(start)
        except BaseException:
            content.close()
            raise
        return StreamingResponse(
            _pieces(content, stop - start), 206 if "range" in request.headers else 200, headers, "binary/octet-stream"
        )

    async def _put(self, request: Request, bucket: str, key: str) -> Response:
        if request.headers.get("if-none-match", "*") != "*":
            raise not_implemented("If-None-Match other than *")
        received = await self._receive(request, bucket)
        try:
            stored = self._store.put(
                bucket,
                key,
                received,
                if_match=request.headers.get("if-match"),
                if_none_match="if-none-match" in request.headers,
            )
        except BaseException:
            received.path.unlink(missing_ok=True)
            raise
        return Response(headers=_received_headers(stored.etag, received))

    async def _put_part(self, request: Request, bucket: str, key: str, query: Mapping[str, str]) -> Response:
        number = query["partNumber"]
        if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 10_000:
            raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000.", status=400)
        received = await self._receive(request, bucket)
        try:
            etag = self._store.put_part(bucket, key, query["uploadId"], int(number), received)
        except BaseException:
            received.path.unlink(missing_ok=True)
            raise
        return Response(headers=_received_headers(etag, received))

    async def _receive(self, request: Request, bucket: str) -> Received:
        """The body in a new file, and the same as was signed."""
        path = self._store.incoming(bucket)
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        checksum = size = 0
        try:
            with path.open("xb") as file:
                async for piece in request.stream():
                    size += len(piece)
                    if size > MAX_PART_BYTES:
                        raise S3Error("EntityTooLarge", f"At most {MAX_PART_BYTES} bytes.", status=400)
                    file.write(piece)
                    sha256.update(piece)
                    md5.update(piece)
                    checksum = crc32(piece, checksum)
            _check_payload(request, sha256.hexdigest())
            expected = request.headers.get("x-amz-checksum-crc32")
            if expected is not None and expected != b64encode(checksum.to_bytes(4)).decode():
                raise S3Error("BadDigest", "The CRC32 you specified did not match the calculated one.", status=400)
            claimed = request.headers.get(_CHECKSUM)
            if claimed is not None and claimed != b64encode(sha256.digest()).decode():
                raise S3Error("BadDigest", "The SHA256 you specified did not match the calculated one.", status=400)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, ClientDisconnect):
                raise S3Error("IncompleteBody", "The body ended too early.", status=400) from None
            raise
        return Received(path, md5.digest(), size, claimed)


def make_app(store: ObjectStore, *, verifier: Verifier, writers: frozenset[str]) -> Starlette:
    """The ASGI application."""
    api = Api(store, verifier=verifier, writers=writers)

    async def endpoint(request: Request) -> Response:
        try:
            return await api.answer(request)
        except SignatureRefusedError as refused:
            error = signature_refused(refused)
        except S3Error as refused:
            error = refused
        answer = _xml("Error", {"Code": error.code, "Message": str(error)}, status=error.status)
        if request.method in {"PUT", "POST"}:
            # The client keeps its body back (Expect: 100-continue): what came next would be taken for it.
            answer.headers["Connection"] = "close"
        return answer

    return Starlette(routes=[Route("/{path:path}", endpoint, methods=["GET", "HEAD", "PUT", "POST", "DELETE"])])


async def _pieces(content: BinaryIO, size: int) -> AsyncIterator[bytes]:
    with content:
        while size and (piece := await run_in_threadpool(content.read, min(size, _SEND_BYTES))):
            size -= len(piece)
            yield piece


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > _MAX_XML_BYTES:
            raise S3Error("MaxMessageLengthExceeded", "Your request was too big.", status=400)
        body += piece
    _check_payload(request, hashlib.sha256(body).hexdigest())
    return bytes(body)


def _check_payload(request: Request, sha256: str) -> None:
    if not hmac.compare_digest(request.headers["x-amz-content-sha256"], sha256):
        raise S3Error(
            "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match.", status=400
        )


def _parts(body: bytes) -> list[tuple[int, str, str | None]]:
    parts = []
    for part in _PART.findall(body.decode("utf-8", "replace")):
        number, etag, sha256 = _PART_NUMBER.search(part), _PART_ETAG.search(part), _PART_SHA256.search(part)
        if number is None or etag is None:
            raise S3Error("MalformedXML", "The XML you provided was not well-formed.", status=400)
        parts.append((int(number[1]), unescape(etag[1]), None if sha256 is None else sha256[1]))
    return parts


def _range(value: str, size: int) -> tuple[int, int]:
    match = _RANGE.fullmatch(value)
    if match is None:
        raise not_implemented("A range of that form")
    start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= stop:
        raise S3Error("InvalidRange", "The requested range is not satisfiable", status=416)
    return start, stop


def _headers(found: StoredObject, length: int) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "Content-Length": str(length),
        "ETag": found.etag,
        "Last-Modified": formatdate(found.modified, usegmt=True),
    }


def _received_headers(etag: str, received: Received) -> dict[str, str]:
    return {"ETag": etag} if received.sha256 is None else {"ETag": etag, _CHECKSUM: received.sha256}


def _checksum_type(sha256: str) -> str:
    return "COMPOSITE" if "-" in sha256 else "FULL_OBJECT"


def _xml(root: str, values: Mapping[str, str], *, status: int = 200) -> Response:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{inner}</{root}>'
    return Response(body, status, {"x-amz-request-id": uuid.uuid4().hex}, media_type="application/xml")
