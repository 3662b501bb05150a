"""`host run` puts a new model version and a new enclave release in the place of the old ones, with load on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from load import Load

from ephemeralml.attestation import Policy
from ephemeralml.client import Client
from ephemeralml.devcloud.world import Process, World, run
from ephemeralml.errors import AttestationError
from ephemeralml.inference import Encoder

PATIENCE = 60
THREADS = 8


class Release:
    """What an owner makes: two releases of an enclave, and versions of a package at one place, a link."""

    def __init__(self, world: World, model: Path) -> None:
        self.world, self.model, self.folder = world, model, world.folder
        self.owner = world.environment("owner")
        run("keygen", self.path("owner.key"))
        key = (self.folder / "owner.key.pub").read_text().strip()
        # Two builds of the enclave: the second raises the lowest version it runs.
        self.configurations = [{"model_owner": key}, {"model_owner": key, "minimum_model_version": 2}]
        for number, content in enumerate(self.configurations, 1):
            (self.folder / f"enclave-{number}.json").write_text(json.dumps(content))
            measured = run("enclave", "measure", self.path(f"enclave-{number}.json"))
            (self.folder / f"measured-{number}.json").write_text(measured)
        both = [argument for number in (1, 2) for argument in ("--measurements", self.path(f"measured-{number}.json"))]
        self.key = run("kms", "create-key", *both, "--endpoint", world.kms_url, environment=self.owner).strip()
        self.install(1)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def pack(self, version: int) -> None:
        """A version of the package, and what `package` is from now on."""
        run(
            *("pack", str(self.model), self.path(f"version-{version}"), "--key", self.path("owner.key")),
            *("--version", str(version), "--model-id", "tiny"),
            *("--kms-key", self.key, "--kms-endpoint", self.world.kms_url),
            environment=self.owner,
        )
        self.link("package", f"version-{version}")

    def install(self, number: int) -> None:
        """What `enclave.json` is from now on."""
        self.link("enclave.json", f"enclave-{number}.json")

    def link(self, name: str, target: str) -> None:
        (self.folder / "next").symlink_to(target)
        (self.folder / "next").replace(self.folder / name)

    def policy(self, *releases: int, minimum: int = 1) -> Policy:
        """A client's, for these releases."""
        out = f"policy-{'-'.join(map(str, releases))}.json"
        given = [
            argument for number in releases for argument in ("--measurements", self.path(f"measured-{number}.json"))
        ]
        run("policy", "create", *given, "--root", str(self.world.root / "root.der"), "--out", self.path(out))
        content = json.loads((self.folder / out).read_text()) | {"minimum_model_version": minimum}
        (self.folder / out).write_text(json.dumps(content))
        return Policy.load(self.folder / out)


@pytest.fixture
def release(tmp_path: Path, tiny_model: Path) -> Any:
    with World(tmp_path) as world:
        yield Release(world, tiny_model)


def change_over(host: Process) -> dict[str, Any]:
    os.kill(host.pid, signal.SIGUSR1)
    return host.event("ready")


def test_a_model_version_and_an_enclave_release_roll_out_under_load(release: Release) -> None:
    release.pack(1)
    expected = Encoder.from_folder(release.model)
    with ExitStack() as stack:
        host = stack.enter_context(release.world.host(release.folder / "package", release.folder / "enclave.json"))
        relay = host.event("ready")["relay"]
        # Rolled out before the enclaves: who asks accepts either release, each as a whole set.
        accepting = release.policy(1, 2)
        clients = [stack.enter_context(Client(relay, policy=accepting, timeout=PATIENCE)) for _ in range(2)]
        with Load(clients, threads=THREADS) as load:
            load.more(5)
            release.pack(2)
            assert change_over(host)["relay"] == relay
            load.more(5)
            release.install(2)
            assert change_over(host)["relay"] == relay
            load.more(5)
        assert load.raised == []
        assert [client.attestations for client in clients] == [3, 3]
        answers = [pair for results in load.results for pair in results]
        for text, result in answers:
            np.testing.assert_allclose(result.vectors, expected.encode([text]), atol=1e-5)
        ran = {(result.receipt.claims.model_version, result.receipt.claims.policy_version) for _, result in answers}
        assert len(ran) == 3
        assert {version for version, _ in ran} == {"1", "2"}
        # The old release is withdrawn: from clients' policies, and the old version with it.
        with Client(relay, policy=release.policy(2, minimum=2)) as client:
            client.embed(["a text"])
        with pytest.raises(AttestationError):
            Client(relay, policy=release.policy(1)).embed(["a secret"])


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda release: release.link("package", "nowhere"), "package.missing"),
        (lambda release: (release.folder / "enclave-2.json").write_text("{"), "enclave.ended"),
    ],
    ids=["no package", "a broken configuration"],
)
def test_what_does_not_boot_takes_nothing_over(release: Release, spoil: Callable[[Release], object], code: str) -> None:
    release.pack(1)
    with ExitStack() as stack:
        host = stack.enter_context(release.world.host(release.folder / "package", release.folder / "enclave.json"))
        relay = host.event("ready")["relay"]
        with Load([stack.enter_context(Client(relay, policy=release.policy(1, 2)))], threads=2) as load:
            load.more(3)
            spoil(release)
            release.install(2)
            os.kill(host.pid, signal.SIGUSR1)
            kept = host.event("enclave kept")
            load.more(3)
        assert (kept["code"], load.raised) == (code, [])


def test_a_second_signal_while_one_boots_changes_over_once_more(release: Release) -> None:
    release.pack(1)
    with release.world.host(release.folder / "package", release.folder / "enclave.json") as host:
        relay = host.event("ready")["relay"]
        with Client(relay, policy=release.policy(1)) as client:
            client.embed(["before"])
            os.kill(host.pid, signal.SIGUSR1)
            time.sleep(0.2)
            os.kill(host.pid, signal.SIGUSR1)
            for _ in range(2):
                host.event("ready")
            client.embed(["after"])
