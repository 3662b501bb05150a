"""What a caller can hold up: nothing but a place of its own, and that for a while only."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ephemeralml.attestation import Policy
from ephemeralml.gateway import app as module
from ephemeralml.gateway.app import Api, Parts
from ephemeralml.gateway.metrics import Metrics
from ephemeralml.gateway.openai_api import OPENAI
from ephemeralml.gateway.pool import Pool
from ephemeralml.gateway.problem import RefusedError
from ephemeralml.gateway.question import Question
from ephemeralml.gateway.receipts import Receipts

BODY = json.dumps({"model": "m", "input": "a"}).encode()
Receive = Callable[[], Awaitable[dict[str, Any]]]


def api() -> Api:
    """Over a relay where nobody listens."""
    pool = Pool("tcp://127.0.0.1:1", policy=Policy.insecure_any_measurement(), timeout=1)
    return Api(Parts(pool=pool, receipts=Receipts(keep=1), keys=None, metrics=Metrics(), names=frozenset({"here"})))


async def ask(
    served: Api, receive: Receive, *hosts: str, path: str = "/v1/embeddings", method: str = "POST"
) -> tuple[int, dict[str, str], Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(b"host", host.encode()) for host in hosts or ("here",)]
    headers = [(b"content-type", b"application/json"), *named]
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": b"/",
        "query_string": b"", "root_path": "", "scheme": "http", "headers": headers, "server": ("here", 80),
    }  # fmt: skip
    await served.app(scope, receive, send)
    headers_sent = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers_sent, json.loads(sent[1]["body"])["error"]["code"]


async def whole() -> dict[str, Any]:
    return {"type": "http.request", "body": BODY, "more_body": False}


async def never() -> dict[str, Any]:
    await asyncio.sleep(3600)
    raise AssertionError


async def more() -> dict[str, Any]:
    return {"type": "http.request", "body": bytes(1 << 20), "more_body": True}


def test_one_more_than_may_be_in_work_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 2)

    async def main() -> None:
        served = api()
        waiting = [asyncio.create_task(ask(served, never)) for _ in range(2)]
        await asyncio.sleep(0)
        status, headers, code = await ask(served, whole)
        assert (status, code, headers["retry-after"]) == (429, "gateway.busy", "1")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        # Their places are free again: what is wrong now is the enclave's absence.
        assert (await ask(served, whole))[0] == 503

    asyncio.run(main())


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.05)
    assert asyncio.run(ask(api(), never))[::2] == (408, "request.timeout")


def test_a_body_without_an_end_is_refused_at_its_limit() -> None:
    assert asyncio.run(ask(api(), more))[::2] == (413, "request.size")


def test_an_enclave_that_is_away_is_worth_another_try() -> None:
    status, headers, code = asyncio.run(ask(api(), whole))
    assert (status, code, headers["retry-after"]) == (503, "transport.unreachable", "1")


@pytest.mark.parametrize(
    ("hosts", "admitted"),
    [
        *((["here"], True), (["HERE:7080"], True), (["127.0.0.1:7080"], True), (["[::1]:7080"], True)),
        *((["elsewhere"], False), (["here.elsewhere"], False), (["127.0.0.1.elsewhere"], False)),
        # What a browser takes for a name and Starlette does not, which then says where the connection arrived.
        *((["a{b.elsewhere"], False), (['a"b.elsewhere:7080'], False), (["a`b.elsewhere"], False)),
        *((["elsewhere:99999"], False), (["here@elsewhere"], False), (["[elsewhere]"], False)),
        *(([""], False), (["here", "elsewhere"], False), (["here", "here"], False)),
    ],
)
def test_a_local_gateway_answers_to_no_name_but_its_own(hosts: list[str], admitted: bool) -> None:
    assert (asyncio.run(ask(api(), whole, *hosts))[0] != 421) is admitted


def test_bodies_are_read_one_at_a_time() -> None:
    inside, most = 0, 0

    def read(_: bytes) -> Question:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        inside -= 1
        raise RefusedError("no", code="request.json")

    served, dialect = api(), OPENAI._replace(read=read)
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(served._answer, b"", dialect) for _ in range(8)]
    assert all(isinstance(answer.exception(), RefusedError) for answer in answers)
    assert most == 1


def test_who_hangs_up_within_its_body_is_no_failure_of_ours() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert asyncio.run(ask(api(), gone))[::2] == (400, "request.gone")


def test_receipts_do_not_wait_behind_those_who_look_for_an_enclave() -> None:
    served = api()
    held = threading.Event()
    for _ in range(module._LOOKING_THREADS):
        served._looking.submit(held.wait, 20)
    try:
        asked = ask(served, whole, path="/v1/receipts/00", method="GET")
        assert asyncio.run(asyncio.wait_for(asked, 10))[::2] == (404, "receipt.unknown")
    finally:
        held.set()
