"""A real host's metrics, over its enclave's restart, and the logs beside them: what was asked is in neither."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest
from gateways import Served, starting

from ephemeralml.attestation import Policy
from ephemeralml.client import Client
from ephemeralml.devcloud.world import Process, World, run
from ephemeralml.exposition import Key, read
from ephemeralml.package import FolderSource, Manifest

PATIENCE = 60
SECRET = "the patient with the rare name"


@contextmanager
def hosted(folder: Path, model: Path) -> Iterator[tuple[Process, str, str, Policy]]:
    """A host and its enclave: the process, where it relays, its page, and what to accept."""
    with World(folder) as world:
        owner = world.environment("owner")
        run("keygen", f"{folder}/owner.key")
        key = (folder / "owner.key.pub").read_text().strip()
        (folder / "enclave.json").write_text(json.dumps({"model_owner": key}))
        (folder / "measured.json").write_text(run("enclave", "measure", f"{folder}/enclave.json"))
        measured = ("--measurements", f"{folder}/measured.json")
        kms_key = run("kms", "create-key", *measured, "--endpoint", world.kms_url, environment=owner).strip()
        run(
            *("pack", str(model), f"{folder}/package", "--key", f"{folder}/owner.key", "--version", "1"),
            *("--model-id", "tiny", "--kms-key", kms_key, "--kms-endpoint", world.kms_url),
            environment=owner,
        )
        root = ("--root", str(world.root / "root.der"))
        run("policy", "create", *measured, *root, "--out", f"{folder}/policy.json")
        with world.host(
            folder / "package", folder / "enclave.json", "--metrics", "tcp://127.0.0.1:0", log="host.log"
        ) as host:
            page = host.event("metrics")["address"].replace("tcp", "http") + "/metrics"
            yield host, host.event("ready")["relay"], page, Policy.load(folder / "policy.json")


def until(page: str, key: Key, least: float) -> dict[Key, float]:
    """The metrics, once one of them is as high."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = read(httpx2.get(page).text)
        if found.get(key, 0) >= least:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def stage(name: str, bound: str = "+Inf") -> Key:
    return "ephemeralml_stage_seconds_bucket", (("le", bound), ("stage", name))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_hosts_metrics_are_what_happened_and_go_on_over_a_restart(tmp_path: Path, tiny_model: Path) -> None:
    with hosted(tmp_path, tiny_model) as (host, relay, page, policy):
        with Client(relay, policy=policy, timeout=PATIENCE) as client:
            for number in range(5):
                client.embed([f"{SECRET} {number}"])
            found = until(page, stage("request"), 5)
        manifest = Manifest.verify(FolderSource(tmp_path / "package").manifest(), owner=None)
        labels = {"model": "tiny", "version": "1", "precision": "fp32", "digest": manifest.digest.hex()}
        assert found["ephemeralml_model_info", tuple(sorted(labels.items()))] == 1
        assert found["ephemeralml_enclave_ready", ()] == 1
        assert found["ephemeralml_key_releases_total", (("way", "broker"),)] == 1
        assert found["ephemeralml_sessions_total", ()] == found["ephemeralml_sessions", ()] == 1
        assert found["ephemeralml_requests_in_work", ()] == 0
        assert {name: found[stage(name)] for name in ("evidence", "queue", "engine")} == {
            "evidence": 1,
            "queue": 5,
            "engine": 5,
        }
        for purpose in ("key-release", "session"):
            age = time.time() - found["ephemeralml_attestation_timestamp_seconds", (("purpose", purpose),)]
            assert 0 <= age < 2 * PATIENCE
        # Sealed and padded: five requests of at least a KiB, with a handshake before them.
        assert found["ephemeralml_relay_bytes_total", (("direction", "to_enclave"),)] > 5 * 1024

        for child in children(host.pid):
            os.kill(child, signal.SIGKILL)
        assert host.event("enclave failed")["code"] == "enclave.ended"
        host.event("ready")
        with Client(relay, policy=policy, timeout=PATIENCE) as client:
            client.embed([SECRET])
            found = until(page, stage("request"), 6)
        assert found["ephemeralml_enclave_restarts_total", (("code", "enclave.ended"),)] == 1
        assert (found["ephemeralml_sessions_total", ()], found["ephemeralml_sessions", ()]) == (2, 1)
        assert SECRET not in httpx2.get(page).text


@pytest.mark.slow
def test_the_logs_of_gateway_and_host_have_no_text_in_them_and_no_size_of_one(tmp_path: Path, tiny_model: Path) -> None:
    with hosted(tmp_path, tiny_model) as (host, relay, _, policy):
        process, log = starting(tmp_path, relay, policy, "--log-format", "json")
        with process:
            assert process.event("verified")["confidential"] is False
            url = process.event("serving")["url"]
            with Served(url, process, log).client() as client:
                client.embeddings.create(model="tiny", input=SECRET)
                for wrong in ([SECRET] * 1025, [SECRET * 20_011]):
                    with pytest.raises(openai.APIStatusError):
                        client.embeddings.create(model="tiny", input=wrong)
            process.stop()
            refused = [json.loads(line) for line in (process.wait_for(""), process.wait_for(""))]
        host.stop()
        said = [json.dumps(refused), *host.said(), log.read_text(), (tmp_path / "host.log").read_text()]
    for event in refused:
        assert event.pop("time")
        assert event == {
            "level": "warning",
            "event": "request refused",
            "endpoint": "/v1/embeddings",
            "status": 400,
            "code": event["code"],
            "reason": "the caller was told",
        }
    assert [event["code"] for event in refused] == ["request.texts", "request.text_bytes"]
    assert all(json.loads(line)["event"] for line in said[1:-2])
    assert "patient" not in "".join(said)
