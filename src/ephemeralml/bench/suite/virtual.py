"""What a run on `--platform vm` makes for itself: the two images, the package, and a KMS that knows both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ephemeralml.bench.owned import Owned
from ephemeralml.bench.suite.instance import Instance
from ephemeralml.devcloud.qemu import PACKAGES, Qemu
from ephemeralml.devcloud.world import run
from ephemeralml.host.nitro import ENCLAVE_PORT
from ephemeralml.session.transport import Address

_RECIPE: Final = PACKAGES.parents[1] / "image"
# The first one compiles the kernel.
_BUILD_SECONDS: Final = 3600.0


@contextmanager
def virtual_machines(
    folder: Path, model: Path, *, memory_mib: int, scratch: Path, say: Callable[[str], None]
) -> Iterator[Instance]:
    """Raises `ConfigurationError` where QEMU is not at hand, `WorldError` with what did not work."""
    Qemu.find()
    owned = Owned(folder)
    try:
        images = {"enclave": (), "bench": ("--bench",)}
        measured = []
        for name, options in images.items():
            say(f"building the image: {name}")
            eif, measurements = folder / f"{name}.eif", folder / f"{name}.pcrs.json"
            run(
                *("image", "enclave", "--configuration", str(owned.configuration), "--out", str(eif)),
                *("--recipe", str(_RECIPE), "--kernel", "own", *options),
                seconds=_BUILD_SECONDS,
            )
            measurements.write_text(run("image", "measure", str(eif), "--json"))
            measured.append(measurements)
        say("packing the model")
        owned.pack(model, *measured)
        yield Instance(
            platform="vm",
            package=str(owned.package),
            policy=owned.policy,
            eif=folder / "enclave.eif",
            bench_eif=folder / "bench.eif",
            address=Address("vsock+unix", path=str(folder / "vsock"), port=ENCLAVE_PORT),
            memory_mib=memory_mib,
            scratch=scratch,
            options=("--root", str(owned.world.root), "--kms-endpoint", owned.world.kms_url),
            owned=owned,
        )
    finally:
        owned.close()
