"""A real enclave whose engine can be held, in this process or, run as a program, in one of its own."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from samples import OWNER, PCRS, make_manifest
from sealed import PATIENCE

from ephemeralml.attestation import Policy
from ephemeralml.devcloud import hypervisor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave import __main__ as program
from ephemeralml.enclave import connection
from ephemeralml.enclave.boot import Booted
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.enclave.security_module import SecurityModule, SocketSecurityModule
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.inference import Batcher, Encoder
from ephemeralml.session.transport import Address


def await_(condition: Callable[[], bool]) -> None:
    """Until it holds, or a failed assertion."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Gate:
    """In `folder`, so that another process can use it. The engine waits while it is shut, as in a long run."""

    def __init__(self, folder: Path) -> None:
        self._shut, self._reached = folder / "shut", folder / "reached"

    def shut(self) -> None:
        self._shut.touch()

    def open(self) -> None:
        self._shut.unlink(missing_ok=True)

    def wait(self) -> None:
        """What the engine does."""
        self._reached.touch()
        await_(lambda: not self._shut.exists())

    def await_engine(self) -> None:
        """Until the engine has something to do."""
        await_(self._reached.exists)


def booted(encoder: Encoder, module: SecurityModule) -> Booted:
    """An enclave that has its model."""
    manifest = make_manifest(model_id="tiny", dimension=encoder.dimension)
    return Booted(
        configuration=Configuration(model_owner=OWNER.public_key().public_bytes_raw()),
        module=module,
        manifest=manifest,
        signed_manifest=manifest.sign(OWNER),
        encoder=encoder,
        boot_id=b"b" * 16,
        receipt_key=Ed25519PrivateKey.generate(),
        production=False,
        stages={},
    )


class GatedEnclave:
    """Booted, with the model in `model`; its evidence is under a development root of its own, saved in `folder`."""

    def __init__(self, folder: Path, model: Path) -> None:
        root = DevelopmentRoot.create()
        root.save(folder)
        ours, self._nsm = socket.socketpair()
        threading.Thread(target=hypervisor._serve_nsm, args=(ours, SoftwareNsm(root, PCRS)), daemon=True).start()
        self.listen = Address("unix", path=f"{folder}/enclave")
        self.gate = Gate(folder)
        self.embedded = 0
        encoder = Encoder.from_folder(model)
        engine = encoder.run

        def run(ids: Sequence[Sequence[int]]) -> np.ndarray:
            self.gate.wait()
            self.embedded += len(ids)
            return engine(ids)

        encoder.run = run  # type: ignore[method-assign]
        self.booted = booted(encoder, SocketSecurityModule(self._nsm))

    def close(self) -> None:
        self.gate.open()
        self._nsm.close()


def policy(folder: Path) -> Policy:
    """Accepts the enclave whose folder it is."""
    return Policy.insecure_any_measurement(extra_roots=[(folder / "root.der").read_bytes()])


def main(folder: str, model: str, drain_seconds: str) -> None:
    """Serves as the enclave's process does, until a signal or the end of standard input."""
    connection.DRAIN_SECONDS = int(drain_seconds)  # type: ignore[attr-defined]
    enclave = GatedEnclave(Path(folder), Path(model))
    nobody = Upstream(Address("unix", path=f"{folder}/host"))
    with Batcher(enclave.booted.encoder) as batcher:
        asyncio.run(program._serve(enclave.booted, batcher, enclave.listen, nobody))


if __name__ == "__main__":
    main(*sys.argv[1:])
