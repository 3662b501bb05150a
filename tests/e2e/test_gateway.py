"""The gateway as programs meet it: the unchanged `openai` client, curl, an enclave that goes, one that is another."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from gateways import Served, gateway, starting
from relaying import PATIENCE, relaying

from ephemeralml.devcloud.world import WorldError, run
from ephemeralml.gateway.pool import SESSIONS
from ephemeralml.host.relay import Relayed
from ephemeralml.inference import Encoder
from ephemeralml.receipts import verify_bundle
from ephemeralml.session.handshake import ClientHandshake
from ephemeralml.session.transport import Address

from .conftest import Deployment

TEXTS = ["hello world.", "", "a", "the quick brown fox, again and again!" * 10, "\u00fcml\u00e4ut \U0001f600"]
SECRET = "the patient with the rare name"


@pytest.fixture(scope="module")
def served(deployed: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with gateway(tmp_path_factory.mktemp("gateway"), deployed.address, deployed.policy) as running:
        yield running


def same(answer: openai.types.CreateEmbeddingResponse, encoder: Encoder, texts: list[str]) -> None:
    assert [item.index for item in answer.data] == list(range(len(texts)))
    np.testing.assert_allclose([item.embedding for item in answer.data], encoder.encode(texts), atol=1e-5)


@pytest.mark.parametrize("form", [openai.omit, "float", "base64"])
def test_the_openai_client_gets_the_models_vectors(served: Served, deployed: Deployment, form: Any) -> None:
    answer = served.client().embeddings.create(model="tiny", input=TEXTS, encoding_format=form, user="someone")
    if form == "base64":
        for item in answer.data:
            encoded: Any = item.embedding
            item.embedding = np.frombuffer(base64.b64decode(encoded), "<f4").tolist()
    same(answer, deployed.encoder, TEXTS)
    read = sum(len(ids) for ids in deployed.encoder.tokenize(TEXTS))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (read, read, "tiny")


def test_one_string_is_one_vector(served: Served, deployed: Deployment) -> None:
    same(served.client().embeddings.create(model="tiny", input="one"), deployed.encoder, ["one"])


def test_the_model_is_listed_and_no_other_is_answered_for(served: Served) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    for ask in (
        lambda: client.models.retrieve("another"),
        lambda: client.embeddings.create(model="another", input="text"),
    ):
        with pytest.raises(openai.NotFoundError, match="serves the model tiny") as caught:
            ask()
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ({"input": [1, 2, 3]}, "request.tokens", "input"),
        ({"input": [[1, 2], [3]]}, "request.tokens", "input"),
        ({"input": []}, "request.type", "input"),
        ({"input": "text", "dimensions": 16}, "request.dimensions", "dimensions"),
        ({"input": "text", "encoding_format": "int8"}, "request.encoding_format", "encoding_format"),
        ({"input": ["text"] * 1025}, "request.texts", None),
        ({"input": "text", "extra_body": {"prompt_name": "query"}}, "request.field", None),
    ],
)
def test_what_would_give_other_vectors_is_refused(
    served: Served, wrong: dict[str, Any], code: str, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.client().embeddings.create(model="tiny", **wrong)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_the_models_own_dimension_may_be_asked_for(served: Served, deployed: Deployment) -> None:
    answer = served.client().embeddings.create(model="tiny", input=["a"], dimensions=deployed.encoder.dimension)
    same(answer, deployed.encoder, ["a"])


def test_each_answers_receipt_can_be_fetched_and_verifies_offline(served: Served, deployed: Deployment) -> None:
    raw = served.client().embeddings.with_raw_response
    asked = [raw.create(model="tiny", input="one").headers["x-ephemeralml-receipt"] for _ in range(2)]
    assert len(set(asked)) == 2
    for identifier in asked:
        verdict = verify_bundle(httpx2.get(f"{served.url}/v1/receipts/{identifier}").content, policy=deployed.policy)
        assert verdict.receipt.sha256.hex() == identifier
        assert verdict.receipt.claims.model_id == "tiny"
    for unknown in ("00" * 32, "no-hex", "%00"):
        answer = httpx2.get(f"{served.url}/v1/receipts/{unknown}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "receipt.unknown")


def test_the_words_of_tei_over_curl(deployed: Deployment, tmp_path: Path) -> None:
    listen = f"unix://{tmp_path}/gateway.sock"
    with gateway(tmp_path, deployed.address, deployed.policy, "--listen", listen):

        def curl(path: str, *options: str) -> Any:
            command = ["curl", "--silent", "--unix-socket", f"{tmp_path}/gateway.sock", f"http://localhost{path}"]
            return json.loads(subprocess.run([*command, *options], capture_output=True, check=True, text=True).stdout)

        def embed(**body: object) -> Any:
            return curl("/embed", "--header", "Content-Type: application/json", "--data", json.dumps(body))

        for normalize in (True, False):
            vectors = embed(inputs=TEXTS, normalize=normalize)
            np.testing.assert_allclose(vectors, deployed.encoder.encode(TEXTS), atol=1e-5)
        assert embed(inputs="a", truncate=False)["error_type"] == "validation"
        assert embed(inputs=[[1, 2]])["error_type"] == "validation"
        info = curl("/info")
        assert (info["model_id"], info["max_input_length"], info["auto_truncate"]) == ("tiny", 48, True)
        assert curl("/health") == {"confidential": False}
    assert not (tmp_path / "gateway.sock").exists()


def test_a_thousand_requests_sixteen_at_a_time(served: Served, deployed: Deployment) -> None:
    client = served.client()

    def ask(number: int) -> None:
        texts = [f"text {number}", "and more" * (number % 9)]
        same(client.embeddings.create(model="tiny", input=texts), deployed.encoder, texts)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(1000)))


def test_the_verdict_and_the_counts_are_shown(served: Served) -> None:
    served.client().embeddings.create(model="tiny", input="counted")
    shown = httpx2.get(f"{served.url}/v1/attestation").json()
    assert (shown["ok"], shown["platform"], shown["confidential"]) == (True, "local", False)
    assert {"measurements", "key binding", "model"} <= {step["name"] for step in shown["steps"] if step["ok"]}
    counts = httpx2.get(f"{served.url}/metrics").text
    assert 'ephemeralml_gateway_requests_total{endpoint="/v1/embeddings",status="200"}' in counts
    assert "ephemeralml_gateway_in_flight 0\n" in counts


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({}, f'{{"input": "{SECRET}', 400, "request.json"),
        ({}, json.dumps({"model": "tiny", "input": [SECRET, 7]}), 400, "request.type"),
        ({}, json.dumps({"model": "tiny", "input": SECRET + "\ud800"}), 400, "request.unicode"),
        ({}, json.dumps({"model": "tiny", "input": SECRET, SECRET: 1}), 400, "request.field"),
        ({}, json.dumps({"model": "tiny", "input": SECRET * 150_000}), 413, "request.size"),
        ({"Content-Type": "text/plain"}, json.dumps({"model": "tiny", "input": SECRET}), 415, "request.content_type"),
        ({"Host": "rebound.example"}, json.dumps({"model": "tiny", "input": SECRET}), 421, "request.host"),
    ],
)
def test_a_refused_text_is_in_no_answer_and_no_log(
    served: Served, headers: dict[str, str], content: str, status: int, code: str
) -> None:
    answer = httpx2.post(
        f"{served.url}/v1/embeddings", headers={"Content-Type": "application/json"} | headers, content=content
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    log = served.log.read_text()
    assert code in log
    assert SECRET not in answer.text + log


# The last four are of no endpoint: what is said of them must end as well.
@pytest.mark.parametrize("asked", ["POST /v1/embeddings", "POST /none", "PUT /embed", "BREW /embed", "POST /embed/"])
def test_a_body_with_two_ends_is_refused_and_nothing_after_it_is_read(served: Served, asked: str) -> None:
    """Content-Length and Transfer-Encoding: who stands between may take the rest for another caller's request."""
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = (
        f"{asked} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + b"0\r\n\r\n" + hidden)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"request.framing" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_what_is_no_endpoint_is_refused_as_all_else_is(served: Served) -> None:
    for method, path in (("GET", "/none"), ("GET", "/embed"), ("BREW", "/health"), ("POST", "/embed/")):
        answer = httpx2.request(method, f"{served.url}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request.endpoint"), path
        answer = httpx2.request(method, f"{served.url}{path}", headers={"Host": "rebound.example"})
        assert answer.status_code == 421, path


def test_only_with_a_key(deployed: Deployment, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first, second = (run("gateway", "key", str(keys), "--name", name).strip() for name in ("one", "two"))
    assert first not in keys.read_text()
    assert keys.stat().st_mode & 0o777 == 0o600
    with gateway(tmp_path, deployed.address, deployed.policy, "--keys", str(keys)) as running:
        for key in (first, second):
            same(running.client(key=key).embeddings.create(model="tiny", input="a"), deployed.encoder, ["a"])
        for wrong in ("none", first[:-1], first + second):
            with pytest.raises(openai.AuthenticationError):
                running.client(key=wrong).embeddings.create(model="tiny", input="a")
        for path in ("metrics", "info", "v1/models", "v1/attestation", "v1/receipts/00", "none", "info/"):
            assert httpx2.get(f"{running.url}/{path}").status_code == 401, path
        assert httpx2.get(f"{running.url}/health").status_code == 200


def test_an_enclave_that_does_not_pass_the_policy_is_not_listened_for(
    deployed: Deployment, strict: Deployment, tmp_path: Path
) -> None:
    process, log = starting(tmp_path, strict.address, deployed.policy)
    with process, pytest.raises(WorldError):
        process.wait_for("serving on")
    assert "[chain.untrusted_root]" in log.read_text()


def test_an_enclave_that_restarts_costs_nobody_an_error(
    tmp_path: Path, tiny_model: Path, deploy: Callable[..., Any]
) -> None:
    with (
        deploy(tmp_path, tiny_model, {}) as deployment,
        gateway(tmp_path, deployment.address, deployment.policy) as running,
    ):
        client, stop = running.client(), threading.Event()

        def ask(number: int) -> int:
            asked = 0
            while not stop.is_set():
                texts = [f"caller {number} text {asked}"]
                same(client.embeddings.create(model="tiny", input=texts), deployment.encoder, texts)
                asked += 1
            return asked

        with ThreadPoolExecutor(8) as threads:
            callers = [threads.submit(ask, number) for number in range(8)]
            try:
                deployment.restart()
                client.embeddings.create(model="tiny", input="after")
            finally:
                stop.set()
        assert all(caller.result() for caller in callers)
        assert "attesting again" in running.log.read_text()


def test_an_enclave_replaced_by_another_gets_nothing_and_callers_the_step_that_failed(
    tmp_path: Path, tiny_model: Path, deploy: Callable[..., Any], strict: Deployment
) -> None:
    closed: list[Relayed] = []
    with ExitStack() as stack:
        deployment = stack.enter_context(deploy(tmp_path, tiny_model, {}))
        relay, address = stack.enter_context(relaying(Address("unix", path=f"{tmp_path}/enclave"), closed.append))
        running = stack.enter_context(gateway(tmp_path, address, deployment.policy))
        client = running.client(retries=2)
        client.embeddings.create(model="tiny", input="before")
        relay.enclave = Address("unix", path=f"{strict.package.parent}/enclave")
        deployment.enclave.close()
        with pytest.raises(openai.InternalServerError) as caught:
            client.embeddings.create(model="tiny", input=SECRET)
        error: Any = caught.value
        assert (error.status_code, error.type, error.code) == (503, "attestation_error", "chain.untrusted_root")
        assert error.body["step"] == "chain"
        # Told that trying again is of no use, the client did not.
        assert running.log.read_text().count("/v1/embeddings: 503") == 1
        for path in ("health", "v1/attestation", "v1/models"):
            assert httpx2.get(f"{running.url}/{path}").status_code == 503, path
        shown = httpx2.get(f"{running.url}/v1/attestation").json()
        assert (shown["ok"], shown["step"]) == (False, "chain")
        # A HELLO and no more went to whoever is there now: all else is the sessions of the enclave before.
        running.process.stop()
        hello, deadline = len(ClientHandshake().hello()), time.monotonic() + PATIENCE
        while sum(relayed.to_enclave != hello for relayed in closed) < SESSIONS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(closed) > SESSIONS
        assert sum(relayed.to_enclave != hello for relayed in closed) == SESSIONS


def test_told_to_stop_it_answers_what_it_has_taken(deployed: Deployment, tmp_path: Path) -> None:
    with gateway(tmp_path, deployed.address, deployed.policy) as running, ThreadPoolExecutor(1) as threads:
        texts = ["the quick brown fox " * 40] * 1024
        answer = threads.submit(running.client().embeddings.create, model="tiny", input=texts)
        while not answer.done() and "in_flight 1\n" not in httpx2.get(f"{running.url}/metrics").text:
            time.sleep(0.01)
        assert not answer.done()
        os.kill(running.process.pid, signal.SIGTERM)
        same(answer.result(), deployed.encoder, texts)
        # Its last words: the verdict's table, and nothing after it.
        assert running.process.words()[-1].startswith("platform local")
