"""A platform whose enclaves are images: `host run --platform …` starts them, the package and its policy are given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ephemeralml.attestation import Policy
from ephemeralml.bench.deployment import ColdStart, Measuring, Served, cold_start, stages
from ephemeralml.bench.owned import Owned, refusal
from ephemeralml.client import EmbedResult
from ephemeralml.devcloud.world import Process
from ephemeralml.host.sources import source_of
from ephemeralml.session.transport import Address

# A machine whose processor is software takes minutes to start.
_PATIENCE: Final = 900.0
_KINDS: Final = {"nitro": "measured", "vm": "emulated"}
_MIB: Final = 1024 * 1024 / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """`eif` serves, `bench_eif` measures itself; both listen at `address`, one at a time.

    `package` is a folder or a place in S3, its key released to both images; `options` go to `host run` as they are.
    Package and KMS are this run's own where there is an `owned`.
    """

    platform: str
    package: str
    policy: Policy
    eif: Path
    bench_eif: Path
    address: Address
    memory_mib: int
    scratch: Path
    options: tuple[str, ...] = ()
    owned: Owned | None = None
    manifest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        endpoint = dict(zip(self.options, self.options[1:], strict=False)).get("--s3-endpoint")
        object.__setattr__(self, "manifest", source_of(self.package, s3_endpoint=endpoint).manifest())

    @property
    def kind(self) -> str:
        """What figures of this platform are."""
        return _KINDS[self.platform]

    @property
    def allocation_mb(self) -> float | None:
        """The enclave's memory, all of it taken when it starts."""
        return self.memory_mib * _MIB

    def _host(self, eif: Path) -> Process:
        return Process(
            *("host", "run", self.package, "--platform", self.platform, "--eif", str(eif), "--log-format", "json"),
            *("--memory", str(self.memory_mib), "--connect", str(self.address), "--relay", "tcp://127.0.0.1:0"),
            *self.options,
            log=self.scratch / "host.log",
            environment=dict(os.environ) if self.owned is None else self.owned.world.environment("host"),
        )

    @contextmanager
    def serve(self) -> Iterator[Served]:
        """A host and its enclave, ready."""
        with self._host(self.eif) as host:
            ready = host.event("ready", seconds=_PATIENCE)
            yield Served(ready["relay"], None, self.policy, stages(ready["boot"]))

    @contextmanager
    def measure(self) -> Iterator[Measuring]:
        """A host and the enclave that measures itself, ready."""
        with self._host(self.bench_eif) as host:
            ready = host.event("ready", seconds=_PATIENCE)
            yield Measuring(self.address, Address.parse(ready["relay"]), stages(ready["boot"]))

    def cold_start(self, texts: list[str]) -> tuple[ColdStart, EmbedResult]:
        """Spawn of the host to the first verified answer, then stopped."""
        return cold_start(lambda: self._host(self.eif), self.policy, texts, patience=_PATIENCE)

    def kms_calls(self, action: str) -> int | None:
        """Unknown for AWS KMS, which tells CloudTrail, minutes later."""
        return None if self.owned is None else self.owned.kms_calls(action)

    def damaged(self, scratch: Path) -> str | None:
        """Not tried where the package is not this run's to change."""
        if self.owned is None:
            return None
        return refusal(lambda package: replace(self, package=str(package)).measure(), self.owned.damaged_copy(scratch))
