"""Where an enclave runs, as the suite needs it: one that serves, one that measures itself, a cold start."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ephemeralml.bench.deployment import ColdStart, Measuring, Served
from ephemeralml.client import EmbedResult


class Place(Protocol):
    """A platform with a package ready to serve: `Deployment` on this machine, `Instance` where enclaves are images."""

    @property
    def platform(self) -> str:
        """``local``, ``vm`` or ``nitro``."""

    @property
    def kind(self) -> str:
        """Whether figures of it are ``measured`` or ``emulated``."""

    @property
    def manifest(self) -> bytes:
        """The package's, signed."""

    @property
    def allocation_mb(self) -> float | None:
        """Memory that the enclave takes from its machine, MB of 10^6 bytes; None where it takes none of its own."""

    def serve(self) -> AbstractContextManager[Served]:
        """A host and its enclave, ready."""

    def measure(self) -> AbstractContextManager[Measuring]:
        """A host and the enclave that measures itself, ready."""

    def cold_start(self, texts: list[str]) -> tuple[ColdStart, EmbedResult]:
        """Spawn of the host to the first verified answer, then stopped."""

    def kms_calls(self, action: str) -> int | None:
        """How often KMS granted an action since this was last asked; None where KMS does not tell."""

    def damaged(self, scratch: Path) -> str | None:
        """The code with which an enclave refuses a package with one bit changed; None where that is not tried.

        Raises `BenchError` when it boots.
        """
