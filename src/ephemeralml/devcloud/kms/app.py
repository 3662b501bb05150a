"""The AWS JSON 1.1 protocol: ``POST /`` with ``X-Amz-Target: TrentService.<Action>``, signed with SigV4."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.operations import Answer, Operations
from ephemeralml.devcloud.sigv4 import Credential, Refusal, SignatureRefusedError, SignedRequest, Verifier

MAX_BODY_BYTES: Final = 256 * 1024

_CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_SERVICE: Final = "TrentService."
_REFUSALS: Final[Mapping[Refusal, str]] = {
    Refusal.UNSIGNED: "MissingAuthenticationTokenException",
    Refusal.INCOMPLETE: "IncompleteSignatureException",
    Refusal.UNKNOWN_KEY: "UnrecognizedClientException",
    Refusal.SCOPE: "InvalidSignatureException",
    Refusal.EXPIRED: "InvalidSignatureException",
    Refusal.MISMATCH: "InvalidSignatureException",
}


OnAnswer: TypeAlias = Callable[[str, str, str], None]
"""Hears of each answered request its action, the caller's ARN, and ``done`` or the error's type: the audit trail."""


def make_app(
    operations: Operations, *, credentials: Mapping[str, Credential], region: str, on_answer: OnAnswer
) -> Starlette:
    """The ASGI application; `credentials` are by access key id."""
    verifier = Verifier(service="kms", region=region, credentials=credentials, must_sign=frozenset({"x-amz-target"}))

    async def endpoint(request: Request) -> Response:
        try:
            body = await _read(request)
            if request.url.query:
                raise ApiError("UnknownOperationException", "Requests have no query string.", status=404)
            signed = SignedRequest(
                method=request.method,
                path=request.url.path,
                query="",
                headers=request.headers.items(),
                payload_hash=hashlib.sha256(body).hexdigest(),
            )
            caller = verifier.verify(signed, now=datetime.now(UTC))
            action = _action(request)
            try:
                answer = await run_in_threadpool(operations.perform, action, _parse(body), caller.principal_arn)
            except ApiError as error:
                on_answer(action, caller.principal_arn, error.type)
                raise
            on_answer(action, caller.principal_arn, "done")
        except SignatureRefusedError as error:
            return _response({"__type": _REFUSALS[error.reason], "message": str(error)}, status=400)
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
