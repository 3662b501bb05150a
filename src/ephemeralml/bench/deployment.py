"""The whole deployment to be measured: owner, KMS, host and enclave as real processes of this installation."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ephemeralml.attestation import Policy
from ephemeralml.bench.memory import memory_of
from ephemeralml.bench.owned import Owned, refusal
from ephemeralml.client import Client, EmbedResult
from ephemeralml.devcloud.world import Process, WorldError, run
from ephemeralml.package import FolderSource
from ephemeralml.session.transport import Address

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
    """`Owned` with enclaves that are processes of this machine; `serve` starts a host. A context manager."""

    platform: Final = "local"
    kind: Final = "measured"
    allocation_mb: Final = None

    def __init__(self, folder: Path, model: Path, *, precision: str = "fp32") -> None:
        self._numbers = itertools.count(1)
        self._owned = Owned(folder)
        self._world = self._owned.world
        try:
            measured = {name: folder / f"{name}.json" for name in ("measurements", "measuring")}
            for path, options in zip(measured.values(), ((), ("--bench",)), strict=True):
                path.write_text(run("enclave", "measure", str(self._owned.configuration), *options))
            self._owned.pack(model, *measured.values(), precision=precision)
        except BaseException:
            self._owned.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    @property
    def package(self) -> Path:
        """The package's folder."""
        return self._owned.package

    @property
    def manifest(self) -> bytes:
        """Of the package, signed."""
        return FolderSource(self.package).manifest()

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
        with self._world.host(package or self.package, self._owned.configuration, *options) as host:
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
                *("enclave", "run", str(self._owned.configuration), "--bench", "--root", str(world.root)),
                *("--listen", at, "--host", services),
                log=f"inside{number}.log",
            )
            with enclave:
                ready = host.event("ready")
                yield Measuring(Address.parse(at), Address.parse(ready["relay"]), stages(ready["boot"]))

    def kms_calls(self, action: str) -> int:
        """How often KMS has granted an action since this was last asked."""
        return self._owned.kms_calls(action)

    def damaged(self, scratch: Path) -> str:
        """The code with which an enclave refuses this package with one bit changed. Raises `BenchError` if it boots."""
        return refusal(self.measure, self._owned.damaged_copy(scratch))

    def cold_start(self, texts: list[str]) -> tuple[ColdStart, EmbedResult]:
        """Start a host, attest its enclave, get one verified answer; stop it again."""
        return cold_start(lambda: self._world.host(self.package, self._owned.configuration), self._owned.policy, texts)

    def _served(self, host: int, ready: dict[str, Any]) -> Served:
        return Served(ready["relay"], enclave_below(host), self._owned.policy, stages(ready["boot"]))


def cold_start(
    start: Callable[[], Process], policy: Policy, texts: list[str], *, patience: float = 60.0
) -> tuple[ColdStart, EmbedResult]:
    """`start` a host, attest its enclave, get one verified answer; stop it again. `patience`: seconds of silence."""
    before = time.perf_counter()
    with start() as host:
        ready = host.event("ready", seconds=patience)
        ready_at = time.perf_counter()
        with Client(ready["relay"], policy=policy, timeout=max(patience, 120.0)) as client:
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
