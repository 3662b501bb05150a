"""The HTTP application: who may ask, how much at once, and one verified answer for each request."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ephemeralml.attestation import Verdict
from ephemeralml.errors import AttestationError
from ephemeralml.exposition import CONTENT_TYPE
from ephemeralml.gateway.keys import ApiKeys
from ephemeralml.gateway.metrics import Metrics
from ephemeralml.gateway.openai_api import OPENAI, model_entry
from ephemeralml.gateway.pool import Pool
from ephemeralml.gateway.problem import Problem, RefusedError, problem_of
from ephemeralml.gateway.question import Dialect, Question
from ephemeralml.gateway.receipts import Receipts
from ephemeralml.gateway.tei_api import TEI, info
from ephemeralml.package.manifest import Manifest
from ephemeralml.texts import printable

MAX_IN_FLIGHT: Final = 64
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Twice what an enclave grants a request as it ships: JSON escapes some of it."""
BODY_SECONDS: Final = 30.0
RECEIPT_HEADER: Final = "x-ephemeralml-receipt"

_JSON = "application/json"
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+))(?::[0-9]{1,5})?")
_LOOKING_THREADS = 4
_log = logging.getLogger("ephemeralml.gateway")

Work = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the application works with. `names`: the hosts it may be called by; None: any."""

    pool: Pool
    receipts: Receipts
    keys: ApiKeys | None
    metrics: Metrics
    names: frozenset[str] | None


class Api:
    """The endpoints over `parts`; `app` is the ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._in_flight = 0
        self._reading = threading.Lock()
        # Each waits for an answer, or for an enclave that is away.
        self._asking = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="gateway-ask")
        self._looking = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="gateway-look")
        routes: list[tuple[str, str, Dialect, Work]] = [
            ("POST", "/v1/embeddings", OPENAI, lambda request: self._embed(request, OPENAI)),
            ("GET", "/v1/models", OPENAI, self._models),
            ("GET", "/v1/models/{model:path}", OPENAI, self._model),
            ("GET", "/v1/attestation", OPENAI, self._attestation),
            ("GET", "/v1/receipts/{id}", OPENAI, self._receipt),
            ("POST", "/embed", TEI, lambda request: self._embed(request, TEI)),
            ("GET", "/info", TEI, self._info),
            ("GET", "/health", TEI, self._health),
            ("GET", "/metrics", TEI, self._metrics),
        ]
        nowhere = self._endpoint("none", OPENAI, self._nowhere)

        # Starlette's own answers would come before `_admit`: 404, 405 and, for a slash too many, a redirection.
        async def unmatched(request: Request, _: Exception) -> Response:
            return await nowhere(request)

        self.app = Starlette(
            routes=[
                Route(path, self._endpoint(path, dialect, work), methods=[method])
                for method, path, dialect, work in routes
            ],
            exception_handlers={HTTPException: unmatched},
        )
        self.app.router.redirect_slashes = False

    def _endpoint(self, path: str, dialect: Dialect, work: Work) -> Work:
        async def endpoint(request: Request) -> Response:
            start = time.perf_counter()
            problem: Problem | None = None
            try:
                self._admit(request, path)
                response = await work(request)
            # Whatever it is, the caller gets a problem of this list, and nobody else hears of it.
            except Exception as error:  # noqa: BLE001
                problem = problem_of(error)
                fields = {
                    "endpoint": path,
                    "status": problem.status,
                    "code": problem.code,
                    "reason": _reason(error, problem),
                }
                said = {"event": "request refused", "fields": fields}
                _log.warning("%s: %d [%s] %s", *fields.values(), extra=said)
                response = Response(dialect.refuse(problem), problem.status, problem.headers, _JSON)
            seconds = time.perf_counter() - start
            code = None if problem is None else problem.code
            self._parts.metrics.answered(path, response.status_code, seconds, code=code)
            return response

        return endpoint

    def _admit(self, request: Request, path: str) -> None:
        # A page in a browser can have its own name resolve to this machine, and then read what we answer it.
        # Not by `request.url`, which for a name that it cannot parse has the address where the connection arrived.
        if self._parts.names is not None and not _are_ours(request.headers.getlist("host"), self._parts.names):
            raise RefusedError("this gateway is called by another name", code="request.host", status=421)
        # Whoever stands between may see another end of the body than we do (RFC 9112, section 6.3).
        if {"content-length", "transfer-encoding"} <= set(request.headers):
            raise RefusedError("a request has a length or is chunked, not both", code="request.framing")
        if self._parts.keys is None or path == "/health":
            return
        if not self._parts.keys.admit(request.headers.get("authorization", "")):
            raise RefusedError("no valid API key; send it as a Bearer token", code="request.key", status=401)

    async def _nowhere(self, _: Request) -> Response:
        raise RefusedError("no endpoint has this path and method", code="request.endpoint", status=404)

    # Embedding.

    async def _embed(self, request: Request, dialect: Dialect) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            raise RefusedError(f"the body must be {_JSON}", code="request.content_type", status=415)
        if self._in_flight >= MAX_IN_FLIGHT:
            message = f"{MAX_IN_FLIGHT} requests are in work, as many as may be"
            raise RefusedError(message, code="gateway.busy", status=429, retry_after=1.0)
        self._in_flight += 1
        try:
            body = await _read(request)
            loop = asyncio.get_running_loop()
            answer, receipt = await loop.run_in_executor(self._asking, self._answer, body, dialect)
        finally:
            self._in_flight -= 1
        return Response(answer, headers={RECEIPT_HEADER: receipt}, media_type=_JSON)

    def _answer(self, body: bytes, dialect: Dialect) -> tuple[bytes, str]:
        # One at a time: 4 MiB of JSON can become 70 MB of objects, and Python reads no two at once anyway.
        with self._reading:
            question = dialect.read(body)
        with self._parts.pool.client() as client:
            _check(question, client.manifest)
            result = client.embed(question.texts)
        # It may have attested again in between.
        _check(question, result.manifest)
        receipt = self._parts.receipts.add(result.receipt, result.bundle)
        self._parts.metrics.read(result.tokens)
        return dialect.write(question, result), receipt

    # Looking.

    async def _look(self, what: Callable[[], object]) -> Response:
        found = await asyncio.get_running_loop().run_in_executor(self._looking, what)
        return Response(json.dumps(found), media_type=_JSON)

    def _manifest(self) -> Manifest:
        with self._parts.pool.client() as client:
            return client.manifest

    async def _models(self, _: Request) -> Response:
        return await self._look(lambda: {"object": "list", "data": [model_entry(self._manifest())]})

    async def _model(self, request: Request) -> Response:
        def find() -> object:
            manifest = self._manifest()
            _check(Question(texts=(), model=request.path_params["model"]), manifest)
            return model_entry(manifest)

        return await self._look(find)

    async def _info(self, _: Request) -> Response:
        return await self._look(lambda: info(self._manifest(), concurrent=MAX_IN_FLIGHT))

    async def _health(self, _: Request) -> Response:
        return await self._look(lambda: {"confidential": self._verdict().confidential})

    def _verdict(self) -> Verdict:
        with self._parts.pool.client() as client:
            return client.verdict

    async def _attestation(self, _: Request) -> Response:
        def judge() -> tuple[int, object]:
            try:
                return 200, _shown(self._verdict())
            except AttestationError as error:
                if not isinstance(error.verdict, Verdict):
                    raise
                return 503, _shown(error.verdict) | {"code": error.code, "step": error.step}

        status, shown = await asyncio.get_running_loop().run_in_executor(self._looking, judge)
        return Response(json.dumps(shown), status, media_type=_JSON)

    async def _receipt(self, request: Request) -> Response:
        # Not beside those who look: they may wait for an enclave that is away.
        bundle = await asyncio.to_thread(self._parts.receipts.get, request.path_params["id"])
        if bundle is None:
            raise RefusedError("no receipt of this id is kept here", code="receipt.unknown", status=404)
        return Response(bundle.to_bytes(), media_type="application/octet-stream")

    async def _metrics(self, _: Request) -> Response:
        text = self._parts.metrics.render(in_flight=self._in_flight, attestations=self._parts.pool.attestations)
        return Response(text, headers={"content-type": CONTENT_TYPE})


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > MAX_BODY_BYTES:
                    raise RefusedError(
                        f"the body is above {MAX_BODY_BYTES} bytes; send fewer texts", code="request.size", status=413
                    )
                body += part
    except ClientDisconnect:
        raise RefusedError("the caller hung up within its body", code="request.gone") from None
    except TimeoutError:
        raise RefusedError("the body did not come in time", code="request.timeout", status=408) from None
    return bytes(body)


def _check(question: Question, manifest: Manifest) -> None:
    """Refuse another model, and another dimension: no manifest says yet that a model's vectors may be cut."""
    if question.model not in {None, manifest.model_id}:
        message = f"the enclave serves the model {manifest.model_id} and no other"
        raise RefusedError(message, code="model_not_found", status=404, param="model")
    dimension = manifest.spec.dimension
    if question.dimensions not in {None, dimension}:
        message = f"this model's vectors have {dimension} dimensions and cannot be shortened"
        raise RefusedError(message, code="request.dimensions", param="dimensions")


def _are_ours(hosts: list[str], names: frozenset[str]) -> bool:
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    name = match[1] or match[2]
    if name.lower() in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    # A number is nobody's to resolve.
    return True


def _reason(error: Exception, problem: Problem) -> str:
    if problem.code == "internal":
        return type(error).__name__
    # What a caller did wrong may be the size of a text: it hears so, the log does not.
    if problem.status < 500:
        return "the caller was told"
    # It may quote the enclave, or the host.
    return printable(problem.message)


def _shown(verdict: Verdict) -> dict[str, object]:
    return {
        "ok": verdict.ok,
        "platform": verdict.platform,
        "confidential": verdict.confidential,
        "summary": verdict.summary,
        "steps": [{"name": step.name, "ok": step.ok, "detail": step.detail} for step in verdict.steps],
    }
