"""The AWS JSON 1.1 protocol: ``POST /`` with ``X-Amz-Target: TrentService.<Action>``, signed with SigV4."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ephemeralml.devcloud.kms import sigv4
from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.operations import Answer, Operations

MAX_BODY_BYTES: Final = 256 * 1024

_CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_SERVICE: Final = "TrentService."


def make_app(operations: Operations, *, credentials: Mapping[str, sigv4.Credential], region: str) -> Starlette:
    """The ASGI application; `credentials` are by access key id."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await _read(request)
            if request.url.query:
                raise ApiError("UnknownOperationException", "Requests have no query string.", status=404)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
            now = datetime.now(UTC)
            caller = sigv4.verify(headers, body, credentials=credentials, region=region, now=now)
            action = _action(request)
            answer = await run_in_threadpool(operations.perform, action, _parse(body), caller.principal_arn)
        except ApiError as error:
            return _response({"__type": error.type, "message": str(error)}, status=error.status)
        return _response(answer)

    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        if len(body) + len(part) > MAX_BODY_BYTES:
            raise ApiError("RequestEntityTooLargeException", f"At most {MAX_BODY_BYTES} bytes.", status=413)
        body += part
    return bytes(body)


def _action(request: Request) -> str:
    target = request.headers["x-amz-target"]
    if not target.startswith(_SERVICE) or request.headers.get("content-type") != _CONTENT_TYPE:
        raise ApiError("UnknownOperationException", f"X-Amz-Target must be {_SERVICE}*, in {_CONTENT_TYPE}.")
    return target.removeprefix(_SERVICE)


def _parse(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ApiError("SerializationException", "The body must be a JSON object.")
    return value


def _response(answer: Answer, *, status: int = 200) -> Response:
    headers = {"x-amzn-RequestId": str(uuid.uuid4())}
    return Response(json.dumps(answer), status, headers, media_type=_CONTENT_TYPE)
