"""What both demonstrations have in common: the owner's part, the client's, and how they are told."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ephemeralml.attestation import Policy
from ephemeralml.client import Client, EmbedResult
from ephemeralml.devcloud.world import World, run

MODEL_ID = "all-MiniLM-L6-v2"
SENTENCES = (
    "The patient reports chest pain after climbing stairs.",
    "Shortness of breath and pressure behind the breastbone on exertion.",
    "Quarterly revenue rose by eight percent.",
    "The company earned more this quarter than last.",
    "The suspect entered the building at midnight.",
    "Someone broke into the office during the night.",
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the owner has made: files, the enclave's configuration, and what clients go by."""

    configuration: Path
    package: Path
    policy: Policy
    pack: tuple[str, ...]
    """The command line of `pack`, but for version and folder."""


def prepare(world: World, model: Path) -> Prepared:
    """The owner's part, told step by step."""
    here = world.folder
    step("The model owner makes a signing key, and the enclave's configuration names it")
    run("keygen", str(here / "owner.key"))
    configuration = here / "enclave.json"
    owner_key = (here / "owner.key.pub").read_text().strip()
    configuration.write_text(json.dumps({"model_owner": owner_key, "model_id": MODEL_ID}))
    measurements = here / "measurements.json"
    measurements.write_text(run("enclave", "measure", str(configuration)))
    pcr0 = json.loads(measurements.read_text())["PCR0"]
    print(f"  PCR0 of the enclave's code and configuration: {pcr0[:32]}…")

    step("KMS gets a key that only an enclave with those measurements can decrypt with")
    owner = world.environment("owner")
    key_arn = run(
        *("kms", "create-key", "--measurements", str(measurements), "--endpoint", world.kms_url), environment=owner
    ).strip()
    print(f"  {key_arn}")

    step("The weights are packed: encrypted, signed, their data key wrapped by KMS")
    before = time.perf_counter()
    pack = (
        *("pack", str(model), "--key", str(here / "owner.key"), "--kms-key", key_arn),
        *("--kms-endpoint", world.kms_url, "--model-id", MODEL_ID),
    )
    package = here / "package"
    said = run(*pack, "--version", "1", str(package), environment=owner)
    print(f"  {said.splitlines()[0]}\n  {time.perf_counter() - before:.1f} s, command included")
    policy_file = here / "policy.json"
    run(
        *("policy", "create", "--measurements", str(measurements), "--out", str(policy_file)),
        *("--root", str(world.root / "root.der")),
    )
    return Prepared(configuration, package, Policy.load(policy_file), pack)


def embed(relay: str, policy: Policy) -> bytes:
    """The client's part; returns the bundle of its first answer."""
    step("A client verifies the enclave's evidence before it sends a byte, then embeds over the relay")
    before = time.perf_counter()
    with Client(relay, policy=policy) as client:
        print(indented(str(client.verdict)))
        print(f"  session up after {(time.perf_counter() - before) * 1000:.0f} ms")
        result = client.embed(SENTENCES)
        times = []
        for _ in range(20):
            before = time.perf_counter()
            client.embed(SENTENCES[:1])
            times.append(time.perf_counter() - before)
    print(
        f"  {len(SENTENCES)} sentences, {result.tokens} tokens, vectors {result.vectors.shape}, each with its nearest:"
    )
    _print_neighbours(result)
    print(
        f"  one sentence, sealed, relayed and with receipt: {np.median(times) * 1000:.1f} ms (median of {len(times)})"
    )
    return result.bundle.to_bytes()


def _print_neighbours(result: EmbedResult) -> None:
    similarity = result.vectors @ result.vectors.T
    np.fill_diagonal(similarity, -1)
    for index, sentence in enumerate(SENTENCES):
        nearest = int(similarity[index].argmax())
        print(f"    {sentence}\n      → {SENTENCES[nearest]} ({similarity[index, nearest]:.2f})")


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n• {text}", flush=True)


def indented(text: str) -> str:
    """`text` as part of a step."""
    return "\n".join(f"  {line}" for line in text.splitlines())
