"""Starts the bare-metal process as the enclave's is started: same interpreter, flags, environment, code."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.questions import Asked
from ephemeralml.devcloud.hypervisor import ENVIRONMENT
from ephemeralml.devcloud.measure import build_image
from ephemeralml.session.transport import Address, connect

PATIENCE = 600.0
_PROGRAM = "ephemeralml.bench.suite.bare"
_STOP_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Bare:
    """A process that measures: the end that asks it, where it listens, and ms from its spawn to the first vector."""

    asked: Asked
    address: Address
    first_vector: float


class BareMetal:
    """One model's folder and the package made of it; `start` runs a process over both."""

    def __init__(self, model: Path, *, manifest: Path, scratch: Path) -> None:
        self._model = model
        self._manifest = manifest
        self._image = scratch / "bare.zip"
        self._image.write_bytes(build_image(program=_PROGRAM))

    @contextmanager
    def start(self, text: str) -> Iterator[Bare]:
        """Raises `BenchError` when it does not load, or not the model that is in the package."""
        start = time.perf_counter()
        with subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                *(sys.executable, "-I", "-S", str(self._image), "--manifest", str(self._manifest)),
                *("--model", str(self._model), sysconfig.get_path("platlib")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            # As the enclave: a Ctrl-C at the terminal is not for it.
            start_new_session=True,
        ) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    raise BenchError("the bare-metal process did not load; it says why above", code="bench.bare")
                address = Address.parse(line.split()[-1])
                with Asked(connect(address, timeout=PATIENCE)) as asked:
                    asked.ask("vectors", texts=[text])
                    yield Bare(asked, address, (time.perf_counter() - start) * 1000)
            finally:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
