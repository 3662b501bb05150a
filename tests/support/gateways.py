"""A gateway as a process, started with the user's own command."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

from ephemeralml.attestation import Policy
from ephemeralml.devcloud.world import Process

_numbers = itertools.count()


@dataclass(frozen=True)
class Served:
    """A gateway that listens."""

    url: str
    process: Process
    log: Path

    def client(self, *, retries: int = 0, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries, timeout=60)


def starting(folder: Path, address: str, policy: Policy, *options: str) -> tuple[Process, Path]:
    """The process, which listens nowhere yet, and where it says what goes wrong."""
    name = f"gateway-{next(_numbers)}"
    policy.save(folder / f"{name}.json")
    log = folder / f"{name}.log"
    listen = () if "--listen" in options else ("--listen", "tcp://127.0.0.1:0")
    arguments = ("--policy", str(folder / f"{name}.json"), "--relay", address, *listen, *options)
    return Process("gateway", *arguments, log=log), log


@contextmanager
def gateway(folder: Path, address: str, policy: Policy, *options: str) -> Iterator[Served]:
    process, log = starting(folder, address, policy, *options)
    with process:
        yield Served(process.wait_for("serving on").split()[-1], process, log)
