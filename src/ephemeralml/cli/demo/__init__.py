"""`ephemeralml demo`: the whole main job with real processes and the real model, then attacks that are refused."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.demo.attacks import show_refusals
from ephemeralml.cli.demo.aws_local import show_aws_local
from ephemeralml.cli.demo.steps import embed, indented, prepare, step
from ephemeralml.cli.model import find_model
from ephemeralml.devcloud.world import World, run
from ephemeralml.package import FolderSource, Manifest
from ephemeralml.receipts import verify_bundle


def demo(
    model: Annotated[Path | None, typer.Option(help="Another sentence-transformers folder than MiniLM-L6-v2.")] = None,
    *,
    aws_local: Annotated[
        bool, typer.Option("--aws-local", help="As on AWS: package in S3, enclave on a vsock, and parts that die.")
    ] = False,
) -> None:
    """Run everything here: pack, attest, embed, verify, attack.

    Example: ephemeralml demo
    """
    started = time.perf_counter()
    folder = find_model(model)
    with tempfile.TemporaryDirectory(prefix="ephemeralml-demo-") as name, World(Path(name)) as world:
        (show_aws_local if aws_local else _main_job)(world, folder)
    print("\nThis machine is the 'local' platform: real protocol and cryptography, but NOT CONFIDENTIAL.")
    print("Whoever runs it can read the enclave's memory. Only AWS Nitro hardware changes that.")
    print(f"\nall done in {time.perf_counter() - started:.0f} s, nothing is left on disk")


def _main_job(world: World, model: Path) -> None:
    made = prepare(world, model)
    step("The untrusted host starts: relay, key broker, artifact feed; and the enclave process boots")
    before = time.perf_counter()
    with world.host(made.package, made.configuration) as host:
        ready = host.event("ready")
        print(f"  ready after {time.perf_counter() - before:.1f} s: {ready['boot']}")
        bundle = embed(ready["relay"], made.policy)
        relayed = host.event("connection closed")
        print(
            f"  the relay carried {relayed['bytes_to_enclave']:,} bytes to the enclave and "
            f"{relayed['bytes_to_client']:,} back, all of it ciphertext after the handshake"
        )
        step("The bundle is verified offline, as an auditor would years later")
        print(indented(str(verify_bundle(bundle, policy=made.policy))))
        manifest = Manifest.verify(FolderSource(made.package).manifest(), owner=None)
        print(f"  the model: {manifest.model_id} version {manifest.version}, digest {manifest.digest.hex()[:32]}…")
        step("Attacks, each of which must be refused")
        run(*made.pack, "--version", "2", str(world.folder / "second"), environment=world.environment("owner"))
        show_refusals(world, relay=ready["relay"], policy=made.policy, bundle=bundle, configuration=made.configuration)
