"""The whole deployment to be measured: owner, KMS, host and enclave as real processes of this installation."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ephemeralml.attestation import Policy
from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.machine import memory_of
from ephemeralml.client import Client, EmbedResult
from ephemeralml.devcloud.world import Process, World, WorldError, run
from ephemeralml.inference.encoder import WEIGHTS_FILE
from ephemeralml.package import FolderSource
from ephemeralml.package.source import ARTIFACT_SUFFIX
from ephemeralml.session.transport import Address

_MODEL_ID = "benchmark"
_CODE = re.compile(r"\[([a-z_.]+)\]$")
_STAGE = re.compile(r"(\w+) ([0-9.]+) ms")


@dataclass(frozen=True, slots=True)
class Served:
    """A host that is ready, with its enclave; `enclave` is its process, where it is one of this machine."""

    relay: str
    enclave: int | None
    policy: Policy
    stages: dict[str, float]

    def client(self, *, timeout: float = 120.0) -> Client:
        """A client that has yet to attest."""
        return Client(self.relay, policy=self.policy, timeout=timeout)

    def memory(self) -> dict[str, float]:
        """VmHWM and VmRSS of the enclave's process, in MB. Raises `WorldError` where that is not seen from here."""
        if self.enclave is None:
            raise WorldError("the enclave's memory is not seen from outside", code="world.enclave")
        return memory_of(self.enclave)


@dataclass(frozen=True, slots=True)
class Measuring:
    """An enclave that measures itself: its own address, the relay before it, and its boot."""

    address: Address
    relay: Address
    stages: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Milliseconds since the host's process was spawned, and the enclave's own stages."""

    ready: float
    attested: float
    answered: float
    stages: dict[str, float]


class Deployment:
    """A KMS that runs, a package for it, and the policy of its clients; `serve` starts a host. A context manager."""

    platform: Final = "local"
    kind: Final = "measured"
    allocation_mb: Final = None

    def __init__(self, folder: Path, model: Path, *, precision: str = "fp32") -> None:
        self._precision = precision
        self._numbers = itertools.count(1)
        self._world = World(folder)
        try:
            self._prepare(model)
        except BaseException:
            self._world.kms.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._world.kms.stop()

    @property
    def package(self) -> Path:
        """The package's folder."""
        return self._world.folder / "package"

    @property
    def manifest(self) -> bytes:
        """Of the package, signed."""
        return FolderSource(self.package).manifest()

    def _prepare(self, model: Path) -> None:
        here, world = self._world.folder, self._world
        run("keygen", str(here / "owner.key"))
        self._configuration = here / "enclave.json"
        owner = (here / "owner.key.pub").read_text().strip()
        self._configuration.write_text(json.dumps({"model_owner": owner, "model_id": _MODEL_ID}))
        measurements = here / "measurements.json"
        measurements.write_text(run("enclave", "measure", str(self._configuration)))
        # The enclave that measures itself is another image: the owner's policy names it beside the one that serves.
        measuring = here / "measuring.json"
        measuring.write_text(run("enclave", "measure", str(self._configuration), "--bench"))
        key = run(
            *("kms", "create-key", "--measurements", str(measurements), "--measurements", str(measuring)),
            *("--endpoint", world.kms_url),
            environment=world.environment("owner"),
        ).strip()
        run(
            *("pack", str(model), str(here / "package"), "--key", str(here / "owner.key"), "--version", "1"),
            *("--model-id", _MODEL_ID, "--kms-key", key, "--kms-endpoint", world.kms_url),
            *("--precision", self._precision),
            environment=world.environment("owner"),
        )
        policy = here / "policy.json"
        run(
            *("policy", "create", "--measurements", str(measurements), "--out", str(policy)),
            *("--root", str(world.root / "root.der")),
        )
        self._policy = Policy.load(policy)

    @contextmanager
    def in_s3(self) -> Iterator[tuple[str, str]]:
        """The package pushed to an S3 that runs meanwhile: its place and the server's address.

        For that while this process has the host's credentials.
        """
        place, world = "s3://models/benchmark", self._world
        server, endpoint = world.start_s3()
        before = dict(os.environ)
        with server:
            run(
                *("push", str(self.package), place, "--s3-endpoint", endpoint),
                environment=world.environment("owner"),
            )
            try:
                _set(world.environment("host"))
                yield place, endpoint
            finally:
                _set(before)

    @contextmanager
    def serve(self, package: str = "", s3_endpoint: str = "") -> Iterator[Served]:
        """A host and its enclave, started now: key released by KMS, package fetched, model loaded."""
        options = ("--s3-endpoint", s3_endpoint) if s3_endpoint else ()
        with self._world.host(package or self.package, self._configuration, *options) as host:
            ready = host.event("ready")
            yield self._served(host.pid, ready)

    @contextmanager
    def measure(self, package: Path | None = None) -> Iterator[Measuring]:
        """A host and, behind it, the enclave that measures itself. Raises `WorldError` with why it did not boot."""
        world, number = self._world, next(self._numbers)
        services, at = (f"unix://{world.folder}/{name}{number}.sock" for name in ("services", "inside"))
        host = world.host(
            package or self.package, None, "--connect", at, "--services", services, log=f"measuring-host{number}.log"
        )
        with host:
            listening = Path(services.removeprefix("unix://"))
            while host.alive and not listening.exists():
                time.sleep(0.01)
            enclave = world.start(
                *("enclave", "run", str(self._configuration), "--bench", "--root", str(world.root)),
                *("--listen", at, "--host", services),
                log=f"inside{number}.log",
            )
            with enclave:
                ready = host.event("ready")
                yield Measuring(Address.parse(at), Address.parse(ready["relay"]), stages(ready["boot"]))

    def kms_calls(self, action: str) -> int:
        """How often KMS has granted an action since this was last asked: its own words."""
        # The thread that reads what it says may be a moment behind.
        time.sleep(0.1)
        return sum(
            line.startswith(f"kms: {action} by ") and line.endswith(": done\n") for line in self._world.kms.said()
        )

    def damaged(self, scratch: Path) -> str | None:
        """The code with which an enclave refuses this package with one bit changed. Raises `BenchError` if it boots."""
        copy = scratch / "damaged"
        shutil.copytree(self.package, copy)
        weights = copy / f"{WEIGHTS_FILE}{ARTIFACT_SUFFIX}"
        with weights.open("r+b") as file:
            file.seek(weights.stat().st_size // 2)
            [byte] = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        try:
            with self.measure(copy):
                pass
        except WorldError as error:
            found = _CODE.search(str(error))
            return found[1] if found else str(error)
        raise BenchError(
            "an enclave booted from a package with a changed bit: its model does not come from there",
            code="bench.model",
        )

    def cold_start(self, texts: list[str]) -> tuple[ColdStart, EmbedResult]:
        """Start a host, attest its enclave, get one verified answer; stop it again."""
        return cold_start(lambda: self._world.host(self.package, self._configuration), self._policy, texts)

    def _served(self, host: int, ready: dict[str, Any]) -> Served:
        return Served(ready["relay"], enclave_below(host), self._policy, stages(ready["boot"]))


def cold_start(start: Callable[[], Process], policy: Policy, texts: list[str]) -> tuple[ColdStart, EmbedResult]:
    """`start` a host, attest its enclave, get one verified answer; stop it again."""
    before = time.perf_counter()
    with start() as host:
        ready = host.event("ready")
        ready_at = time.perf_counter()
        with Client(ready["relay"], policy=policy, timeout=120.0) as client:
            attested_at = time.perf_counter()
            answer = client.embed(texts)
            answered_at = time.perf_counter()
    return ColdStart(
        ready=(ready_at - before) * 1000,
        attested=(attested_at - before) * 1000,
        answered=(answered_at - before) * 1000,
        stages=stages(ready["boot"]),
    ), answer


def _set(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def enclave_below(pid: int) -> int:
    """The enclave's process among the descendants of a host. Raises `WorldError` when there is none."""
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        for task in Path(f"/proc/{current}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
        # Only the enclave is given the descriptor of a security module.
        if b"--nsm-fd" in Path(f"/proc/{current}/cmdline").read_bytes().split(b"\0"):
            return current
    raise WorldError("the host has no enclave process", code="world.enclave")


def stages(said: str) -> dict[str, float]:
    """The enclave's words about its boot, "manifest 3 ms, attestation 9 ms, …"."""
    return {name: float(value) for name, value in _STAGE.findall(said)}
