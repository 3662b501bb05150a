"""What every deployment has that a run makes for itself: an owner, a KMS that runs, a package, its clients' policy."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from ephemeralml.attestation import Policy
from ephemeralml.bench.errors import BenchError
from ephemeralml.devcloud.world import World, WorldError, run
from ephemeralml.inference.encoder import WEIGHTS_FILE
from ephemeralml.package.source import ARTIFACT_SUFFIX

_MODEL_ID: Final = "benchmark"
_CODE: Final = re.compile(r"\[([a-z_.]+)\](?: docs/\S+)?$")


class Owned:
    """`configuration` is there at once; `pack` makes the `package` and the `policy`, once images are measured."""

    policy: Policy

    def __init__(self, folder: Path) -> None:
        self.configuration = folder / "enclave.json"
        self.package = folder / "package"
        self._key = folder / "owner.key"
        self.world = World(folder)
        try:
            run("keygen", str(self._key))
            owner = (folder / "owner.key.pub").read_text().strip()
            self.configuration.write_text(json.dumps({"model_owner": owner, "model_id": _MODEL_ID}))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop whatever of it still runs."""
        self.world.__exit__(None, None, None)

    def pack(self, model: Path, serving: Path, measuring: Path, *, precision: str = "fp32") -> None:
        """The key goes to the image that serves and to the one that measures itself, clients want the first.

        `serving` and `measuring` are files of measurements. Raises `WorldError`.
        """
        world, owner = self.world, self.world.environment("owner")
        key = run(
            *("kms", "create-key", "--measurements", str(serving), "--measurements", str(measuring)),
            *("--endpoint", world.kms_url),
            environment=owner,
        ).strip()
        run(
            *("pack", str(model), str(self.package), "--key", str(self._key), "--version", "1"),
            *("--model-id", _MODEL_ID, "--kms-key", key, "--kms-endpoint", world.kms_url),
            *("--precision", precision),
            environment=owner,
        )
        policy = world.folder / "policy.json"
        run(
            *("policy", "create", "--measurements", str(serving), "--out", str(policy)),
            *("--root", str(world.root / "root.der")),
        )
        self.policy = Policy.load(policy)

    def kms_calls(self, action: str) -> int:
        """How often KMS has granted an action since this was last asked: its own words."""
        # The thread that reads what it says may be a moment behind.
        time.sleep(0.1)
        return sum(
            line.startswith(f"kms: {action} by ") and line.endswith(": done\n") for line in self.world.kms.said()
        )

    def damaged_copy(self, scratch: Path) -> Path:
        """The package with one bit of its weights changed."""
        copy = scratch / "damaged"
        shutil.copytree(self.package, copy)
        weights = copy / f"{WEIGHTS_FILE}{ARTIFACT_SUFFIX}"
        with weights.open("r+b") as file:
            file.seek(weights.stat().st_size // 2)
            [byte] = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        return copy


def refusal(start: Callable[[Path], AbstractContextManager[object]], damaged: Path) -> str:
    """The code with which an enclave refuses a damaged package. Raises `BenchError` if it boots from it."""
    try:
        with start(damaged):
            pass
    except WorldError as error:
        found = _CODE.search(str(error))
        return found[1] if found else str(error)
    raise BenchError(
        "an enclave booted from a package with a changed bit: its model does not come from there",
        code="bench.model",
    )
