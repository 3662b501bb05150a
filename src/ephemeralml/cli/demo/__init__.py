"""`ephemeralml demo`: the whole main job with real processes and the real model, then attacks that are refused."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ephemeralml.attestation import Policy
from ephemeralml.cli.demo.attacks import show_refusals
from ephemeralml.cli.model import find_model
from ephemeralml.client import Client, EmbedResult
from ephemeralml.devcloud.world import World, run
from ephemeralml.package import FolderSource, Manifest
from ephemeralml.receipts import verify_bundle

_MODEL_ID = "all-MiniLM-L6-v2"
SENTENCES = (
    "The patient reports chest pain after climbing stairs.",
    "Shortness of breath and pressure behind the breastbone on exertion.",
    "Quarterly revenue rose by eight percent.",
    "The company earned more this quarter than last.",
    "The suspect entered the building at midnight.",
    "Someone broke into the office during the night.",
)


def demo(
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
) -> None:
    """Run everything on this machine: pack, release, attest, embed, verify, attack.

    Example: ephemeralml demo
    """
    started = time.perf_counter()
    folder = find_model(model)
    with tempfile.TemporaryDirectory(prefix="ephemeralml-demo-") as name:
        world = World(Path(name))
        with world.kms:
            _main_job(world, folder)
    print(f"\nall done in {time.perf_counter() - started:.0f} s, nothing is left on disk")


def _main_job(world: World, model: Path) -> None:
    here = world.folder
    _step("The model owner makes a signing key, and the enclave's configuration names it")
    run("keygen", str(here / "owner.key"))
    configuration = here / "enclave.json"
    owner_key = (here / "owner.key.pub").read_text().strip()
    configuration.write_text(json.dumps({"model_owner": owner_key, "model_id": _MODEL_ID}))
    (here / "measurements.json").write_text(run("enclave", "measure", str(configuration)))
    pcr0 = json.loads((here / "measurements.json").read_text())["PCR0"]
    print(f"  PCR0 of the enclave's code and configuration: {pcr0[:32]}…")

    _step("KMS gets a key that only an enclave with that PCR0 can decrypt with")
    owner = world.environment("owner")
    key_arn = run(
        *("kms", "create-key", "--measurements", str(here / "measurements.json"), "--endpoint", world.kms_url),
        environment=owner,
    ).strip()
    print(f"  {key_arn}")

    _step("The weights are packed: encrypted, signed, their data key wrapped by KMS")
    before = time.perf_counter()
    pack = ("pack", str(model), "--key", str(here / "owner.key"), "--kms-key", key_arn, "--kms-endpoint", world.kms_url)
    print(
        "  "
        + run(*pack, "--version", "1", "--model-id", _MODEL_ID, str(here / "package"), environment=owner).splitlines()[
            0
        ]
    )
    print(f"  {time.perf_counter() - before:.1f} s, command included")

    _step("The untrusted host starts: relay, key broker, artifact feed; and the enclave process boots")
    before = time.perf_counter()
    with world.host(here / "package", configuration) as host:
        ready = host.event("ready")
        print(f"  ready after {time.perf_counter() - before:.1f} s: {ready['boot']}")
        policy_file = here / "policy.json"
        run(
            *("policy", "create", "--measurements", str(here / "measurements.json"), "--out", str(policy_file)),
            *("--root", str(world.root / "root.der")),
        )
        policy = Policy.load(policy_file)
        bundle = _embed(ready["relay"], policy)
        relayed = host.event("connection closed")
        print(
            f"  the relay carried {relayed['bytes_to_enclave']:,} bytes to the enclave and "
            f"{relayed['bytes_to_client']:,} back, all of it ciphertext after the handshake"
        )
        _step("The bundle is verified offline, as an auditor would years later")
        print(_indented(str(verify_bundle(bundle, policy=policy))))
        manifest = Manifest.verify(FolderSource(here / "package").manifest(), owner=None)
        print(f"  the model: {manifest.model_id} version {manifest.version}, digest {manifest.digest.hex()[:32]}…")
        _step("Attacks, each of which must be refused")
        second = here / "second"
        run(*pack, "--version", "2", "--model-id", _MODEL_ID, str(second), environment=owner)
        show_refusals(world, relay=ready["relay"], policy=policy, bundle=bundle, configuration=configuration)
    print("\nThis machine is the 'local' platform: real protocol and cryptography, but NOT CONFIDENTIAL.")
    print("Whoever runs it can read the enclave's memory. Only AWS Nitro hardware changes that.")


def _embed(relay: str, policy: Policy) -> bytes:
    _step("A client verifies the enclave's evidence before it sends a byte, then embeds over the relay")
    before = time.perf_counter()
    with Client(relay, policy=policy) as client:
        print(_indented(str(client.verdict)))
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


def _step(text: str) -> None:
    print(f"\n• {text}", flush=True)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
