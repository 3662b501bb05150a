"""Many texts: `encode`, `embed_iter` and a corpus that is interrupted, against a real enclave."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow.parquet import read_table

from ephemeralml.client import Client
from ephemeralml.client.corpus import PER_REQUEST, embed_corpus
from ephemeralml.devcloud.world import WorldError, run
from ephemeralml.errors import ConfigurationError, TransportError
from ephemeralml.receipts import Bundle, verify_bundle

from .conftest import Deployment

TEXTS = [f"text {number}" + " and more" * (number % 7) for number in range(5 * PER_REQUEST - 3)]


def test_encode_is_the_model(deployed: Deployment) -> None:
    expected = deployed.encoder.encode(TEXTS)
    with deployed.client() as client:
        np.testing.assert_allclose(client.encode(TEXTS, normalize_embeddings=True), expected, atol=1e-5)
        np.testing.assert_allclose(client.encode(TEXTS[7]), expected[7], atol=1e-5)
        assert client.encode([]).shape == (0, deployed.encoder.dimension)
        assert client.manifest.model_id == "tiny"


def test_each_request_of_many_has_its_own_receipt(deployed: Deployment) -> None:
    with deployed.client() as client:
        results = list(client.embed_iter(iter(TEXTS), batch_size=100))
    np.testing.assert_allclose(
        np.concatenate([result.vectors for result in results]), deployed.encoder.encode(TEXTS), atol=1e-5
    )
    receipts = {verify_bundle(result.bundle.to_bytes(), policy=deployed.policy).receipt.sha256 for result in results}
    assert len(receipts) == len(results) == 7


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_a_corpus_that_is_interrupted_is_gone_on_with(
    deployed: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    out, receipts, asked = tmp_path / f"vectors{suffix}", tmp_path / "proof.aer", 0
    embed = Client.embed

    def counted(client: Client, texts: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise TransportError("the network went away", code="transport.closed")
        return embed(client, texts)

    monkeypatch.setattr(Client, "embed", counted)
    with deployed.client() as client:
        with pytest.raises(TransportError):
            embed_corpus(client, TEXTS, out, receipts=receipts)
        assert [path.name for path in tmp_path.iterdir()] == [f"{out.name}.part"]
        with pytest.raises(ConfigurationError, match="remove it to begin anew"):
            embed_corpus(client, TEXTS[1:], out, receipts=receipts)
        asked = 100
        before = embed_corpus(client, TEXTS, out, receipts=receipts)
        digest = client.manifest.digest.hex()
    assert before >= PER_REQUEST
    assert asked - 100 == 5 - before // PER_REQUEST
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["proof.aer", out.name])
    if suffix == ".npy":
        vectors = np.load(out)
        assert vectors.dtype == np.float32
    elif suffix == ".parquet":
        table = read_table(out)
        assert table["text"].to_pylist() == TEXTS
        vectors = np.stack(table["vector"].to_numpy())
        assert table.schema.metadata[b"ephemeralml.model_digest"].decode() == digest
    else:
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["text"] for line in lines] == TEXTS
        vectors = np.array([line["vector"] for line in lines])
    np.testing.assert_allclose(vectors, deployed.encoder.encode(TEXTS), atol=1e-5)
    proved = [verify_bundle(data, policy=deployed.policy) for data in Bundle.split(receipts)]
    assert len({verdict.receipt.sha256 for verdict in proved}) == 5


# Of a run that goes on after two requests, which are in the journal.
_KILLED = """
import os, signal, sys
from ephemeralml.cli import main
from ephemeralml.client.journal import Journal

def append(journal, *record, append=Journal.append):
    append(journal, *record)
    if journal.records == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = append
main()
"""


def test_a_run_that_was_killed_writes_what_one_that_was_not_writes(deployed: Deployment, tmp_path: Path) -> None:
    policy, corpus = tmp_path / "policy.json", tmp_path / "lines.txt"
    deployed.policy.save(policy)
    corpus.write_text("".join(f"{text}\n" for text in TEXTS))
    common = ("embed", "--file", str(corpus), "--policy", str(policy), "--address", deployed.address, "--out")
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    done = subprocess.run([sys.executable, "-c", _KILLED, *common, str(killed)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not killed.exists()
    assert json.loads(run(*common, str(killed), "--json"))["answered_before"] == 2 * PER_REQUEST
    assert json.loads(run(*common, str(whole), "--json"))["answered_before"] == 0
    found, expected = read_table(killed), read_table(whole)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found["text"].equals(expected["text"])
    np.testing.assert_allclose(
        np.stack(found["vector"].to_numpy()), np.stack(expected["vector"].to_numpy()), rtol=0, atol=1e-5
    )
    assert {path.name for path in tmp_path.iterdir()} == {"policy.json", "lines.txt", killed.name, whole.name}


def test_the_command_writes_one_file_of_bundles_and_verify_reads_it(deployed: Deployment, tmp_path: Path) -> None:
    policy, corpus, proof = tmp_path / "policy.json", tmp_path / "lines.txt", tmp_path / "proof.aer"
    deployed.policy.save(policy)
    texts = [*TEXTS[: 2 * PER_REQUEST], "one\u2028line\x0b still"]
    corpus.write_text("".join(f"{text}\n" for text in texts))
    common = ("embed", "--file", str(corpus), "--policy", str(policy), "--address", deployed.address)
    run(*common, "--out", str(tmp_path / "v.npy"), "--receipt", str(proof))
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), deployed.encoder.encode(texts), atol=1e-5)
    assert [json.loads(line)["text"] for line in run(*common).removesuffix("\n").split("\n")] == texts
    verify = ("verify", str(proof), "--policy", str(policy))
    assert run(*verify).splitlines()[-1].startswith("3 bundles, and each holds")
    assert json.loads(run(*verify, "--json"))["bundles"] == 3
    content = proof.read_bytes()
    for damaged in (
        content[:-1],
        content + b"\0",
        content[: len(content) // 2] + b"\xff" + content[len(content) // 2 :],
    ):
        proof.write_bytes(damaged)
        with pytest.raises(WorldError):
            run(*verify)


def test_the_example_for_vector_stores_runs(deployed: Deployment, tmp_path: Path) -> None:
    deployed.policy.save(tmp_path / "policy.json")
    example = Path(__file__).parents[2] / "examples" / "vector_store.py"
    environment = os.environ | {
        "EPHEMERALML_RELAY": deployed.address,
        "EPHEMERALML_POLICY": str(tmp_path / "policy.json"),
    }
    done = subprocess.run(
        [sys.executable, str(example)], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    summary, nearest = done.stdout.splitlines()
    assert summary.startswith("platform local, not confidential")
    assert nearest.endswith(".")
    shapes = runpy.run_path(str(example))
    with deployed.client() as client:
        expected = deployed.encoder.encode(TEXTS[:3])
        np.testing.assert_allclose(shapes["Embeddings"](client).embed_documents(TEXTS[:3]), expected, atol=1e-5)
        np.testing.assert_allclose(shapes["EmbeddingFunction"](client)(TEXTS[:3]), expected, atol=1e-5)
