"""The main job, whole: texts go to an attested enclave and come back as the model's vectors, with a proof of each."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threads import in_threads

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.client import Client, EmbedResult
from ephemeralml.errors import AttestationError, BusyError, RequestError, TransportError
from ephemeralml.inference import Encoder
from ephemeralml.receipts import verify_bundle

from .conftest import Deployment

TEXTS = ["hello world.", "", "a", "the quick brown fox, again and again!" * 10, "\u00fcml\u00e4ut \U0001f600"]


def same(result: EmbedResult, encoder: Encoder, texts: list[str]) -> None:
    assert result.vectors.dtype == np.float32
    np.testing.assert_allclose(result.vectors, encoder.encode(texts).reshape(len(texts), -1), atol=1e-5)


def test_vectors_are_the_models(deployed: Deployment) -> None:
    with deployed.client() as client:
        result = client.embed(TEXTS)
        same(result, deployed.encoder, TEXTS)
        assert result.tokens == sum(len(ids) for ids in deployed.encoder.tokenize(TEXTS))
        same(client.embed(["one"]), deployed.encoder, ["one"])
        assert client.embed([]).vectors.shape == (0, deployed.encoder.dimension)
        assert client.attestations == 1


def test_the_verdict_says_what_was_proved(deployed: Deployment) -> None:
    with deployed.client() as client:
        verdict = client.verdict
    assert verdict.ok
    assert verdict.platform == "local"
    assert not verdict.confidential
    assert "not confidential" in str(verdict)


def test_every_answer_has_a_receipt_that_verifies_offline(deployed: Deployment, tmp_path: Path) -> None:
    with deployed.client() as client:
        results = [client.embed([text]) for text in TEXTS]
    for number, result in enumerate(results):
        claims = result.receipt.claims
        assert claims.request_hash == sha256(result.request).digest()
        assert claims.response_hash == sha256(result.response).digest()
        assert claims.sequence_number == number
        assert claims.security_mode == "evaluation"
        path = tmp_path / f"{number}.aer"
        result.bundle.save(path)
        verified = verify_bundle(path, policy=deployed.policy)
        assert verified.receipt.claims == claims
    # The chain: each request names the receipt before it.
    for before, after in itertools.pairwise(results):
        assert before.receipt.sha256 in after.request


def test_nothing_is_embedded_for_another_policy(deployed: Deployment) -> None:
    good = deployed.policy.measurements[0]
    wrong = Measurements(pcr0=b"\x01" * 48, pcr1=good.pcr1, pcr2=good.pcr2)
    policy = Policy(measurements=[wrong], extra_roots=deployed.policy.extra_roots)
    with pytest.raises(AttestationError) as caught:
        deployed.client(policy=policy).embed(["a secret"])
    assert caught.value.step == "measurements"


@pytest.mark.parametrize(
    ("texts", "code"),
    [("a string", "request.type"), ([b"bytes"], "request.type"), (["\ud800"], "request.unicode")],
)
def test_requests_that_will_never_do(deployed: Deployment, texts: Any, code: str) -> None:
    with deployed.client() as client:
        with pytest.raises(RequestError) as caught:
            client.embed(texts)
        assert caught.value.code == code
        same(client.embed(["after"]), deployed.encoder, ["after"])
        assert client.attestations == 1


def test_requests_above_the_enclaves_limits_say_which(deployed: Deployment) -> None:
    with deployed.client() as client:
        for texts, code in (
            (["a"] * 1025, "request.texts"),
            (["a" * (256 * 1024 + 1)], "request.text_bytes"),
            (["a" * 200_000], "request.text_size"),
            (["a" * 100_000] * 50, "request.size"),
            (["a" * 100_000] * 200, "request.size"),
        ):
            with pytest.raises(RequestError) as caught:
                client.embed(texts)
            assert caught.value.code == code
        same(client.embed(["after"]), deployed.encoder, ["after"])


def test_a_request_of_a_thousand_texts(deployed: Deployment) -> None:
    texts = [f"text {number}" for number in range(1024)]
    with deployed.client() as client:
        same(client.embed(texts), deployed.encoder, texts)


def test_many_threads_share_one_client(deployed: Deployment) -> None:
    with deployed.client() as client:
        results: dict[int, EmbedResult] = {}

        def work(number: int) -> None:
            chance = random.Random(number)
            for turn in range(5):
                texts = [f"{number} {turn} {'x' * chance.randrange(200)}" for _ in range(chance.randrange(1, 5))]
                result = client.embed(texts)
                same(result, deployed.encoder, texts)
                results[number * 5 + turn] = result

        assert in_threads(16, work) == []
        assert client.attestations == 1
    assert sorted(result.receipt.claims.sequence_number or 0 for result in results.values()) == list(range(80))


def test_several_clients(deployed: Deployment) -> None:
    def work(number: int) -> None:
        with deployed.client() as client:
            for turn in range(3):
                same(client.embed([f"client {number} {turn}"]), deployed.encoder, [f"client {number} {turn}"])

    assert in_threads(8, work) == []


def test_a_short_request_overtakes_a_long_one(deployed: Deployment) -> None:
    done: list[str] = []
    with deployed.client() as client:

        def long() -> None:
            client.embed(["the quick brown fox jumps over the lazy dog " * 4] * 1024)
            done.append("long")

        thread = threading.Thread(target=long)
        thread.start()
        time.sleep(0.1)
        client.embed(["short"])
        done.append("short")
        thread.join()
    assert done == ["short", "long"]


def test_a_client_attests_once_more_after_a_restart(deployed: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    with deployed.client() as client:
        before = client.embed(["before"])
        deployed.restart()
        with caplog.at_level(logging.WARNING, "ephemeralml.client"):
            after = client.embed(["after"])
        same(after, deployed.encoder, ["after"])
        assert client.attestations == 2
        assert "attesting again" in caplog.text
        assert before.receipt.claims.attestation_doc_hash != after.receipt.claims.attestation_doc_hash
        assert client.embed(["and on"]).receipt.claims.sequence_number == 1


def test_many_threads_attest_once_more_together(deployed: Deployment) -> None:
    with deployed.client() as client:
        client.embed(["before"])
        deployed.restart()
        assert in_threads(8, lambda number: same(client.embed([str(number)]), deployed.encoder, [str(number)])) == []
        assert client.attestations == 2


def test_a_closed_client_may_be_used_again(deployed: Deployment) -> None:
    client = deployed.client()
    client.close()
    with client:
        client.embed(["a"])
    client.embed(["b"])
    assert client.attestations == 2
    client.close()


def test_an_idle_session_ends_and_the_client_goes_on(strict: Deployment) -> None:
    with strict.client() as client:
        client.embed(["before"])
        time.sleep(1.5)
        same(client.embed(["after"]), strict.encoder, ["after"])
        assert client.attestations == 2


def test_too_many_requests_in_flight_are_busy(strict: Deployment) -> None:
    with strict.client() as client:
        texts = ["the quick brown fox jumps over the lazy dog"] * 1024
        raised = in_threads(8, lambda _: client.embed(texts))
        assert raised
        assert all(isinstance(error, BusyError) and error.retry_after > 0 for error in raised)
        assert len(raised) < 8
        same(client.embed(["after"]), strict.encoder, ["after"])
        assert client.attestations == 1


def test_an_answer_that_can_never_fit_is_not_called_busy(strict: Deployment) -> None:
    # The texts fit a request; their vectors are more than this session may ever hold.
    with strict.client() as client:
        with pytest.raises(RequestError):
            client.embed(["a"] * 4000)
        same(client.embed(["after"]), strict.encoder, ["after"])


def test_nobody_there(tmp_path: Path, deployed: Deployment) -> None:
    with pytest.raises(TransportError) as caught:
        Client(f"unix://{tmp_path}/nobody", policy=deployed.policy).embed(["a"])
    assert caught.value.code == "transport.unreachable"
