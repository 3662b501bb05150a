"""A deployment whose enclave is a virtual machine: KMS, owner, image and host, by a user's own commands."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ephemeralml.attestation import Policy
from ephemeralml.client import Client
from ephemeralml.devcloud.world import Process, World, run
from ephemeralml.image import Metadata, SectionKind, build, read
from ephemeralml.image.kernel import Kernel
from ephemeralml.image.layout import SECTION_HEADER_BYTES

MODEL_ID = "vm"
MEMORY = 768
SECONDS = 900
RECIPE = Path(__file__).parents[2] / "deploy" / "image"


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image and what its owner signed it with."""

    eif: Path
    owner_key: Path
    measurements: Path


def build_image(folder: Path, kernel: Kernel) -> Built:
    """The image of an owner made on the spot."""
    key, configuration, eif = folder / "owner.key", folder / "enclave.json", folder / "enclave.eif"
    run("keygen", str(key))
    configuration.write_text(
        json.dumps({"model_owner": (folder / "owner.key.pub").read_text().strip(), "model_id": MODEL_ID})
    )
    run(
        *("image", "enclave", "--configuration", str(configuration), "--out", str(eif), "--recipe", str(RECIPE)),
        *("--kernel", str(kernel.bzimage), "--cmdline", kernel.cmdline),
    )
    return Built(eif=eif, owner_key=key, measurements=_measure(eif))


def change_init(built: Built, eif: Path) -> Path:
    """The same image but for one letter of a comment in its root file system."""
    base, *rest = _contents(built, SectionKind.RAMDISK)
    archive = zlib.decompress(base, wbits=31)
    assert archive.count(b"PID 1 of the enclave") == 1
    changed = gzip.compress(archive.replace(b"PID 1 of the enclave", b"PID 1 of the enclavE"), mtime=0)
    return _rebuild(built, eif, [changed, *rest])


def overlaid(built: Built, ramdisk: bytes, eif: Path) -> Built:
    """The same image with one more ramdisk, whose files take the place of others."""
    measurements = _rebuild(built, eif, [*_contents(built, SectionKind.RAMDISK), ramdisk])
    return replace(built, eif=eif, measurements=measurements)


def _contents(built: Built, kind: SectionKind) -> list[bytes]:
    data = built.eif.read_bytes()
    return [
        data[section.offset + SECTION_HEADER_BYTES :][: section.size]
        for section in read(built.eif).sections
        if section.kind is kind
    ]


def _rebuild(built: Built, eif: Path, ramdisks: list[bytes]) -> Path:
    build(
        eif,
        kernel=_contents(built, SectionKind.KERNEL)[0],
        cmdline=read(built.eif).cmdline,
        ramdisks=ramdisks,
        metadata=Metadata(image_name="changed", image_version="1", build_tool_version="1", kernel_version="1"),
    )
    return _measure(eif)


class VmWorld:
    """A KMS with a key for `built` alone, a package under it, and the policy of its clients. A context manager."""

    def __init__(self, folder: Path, built: Built, model: Path) -> None:
        self.world = World(folder)
        self.built = built
        self.package = folder / "package"
        owner = self.world.environment("owner")
        key = run(
            *("kms", "create-key", "--measurements", str(built.measurements), "--endpoint", self.world.kms_url),
            environment=owner,
        ).strip()
        run(
            *("pack", str(model), str(self.package), "--key", str(built.owner_key), "--version", "1"),
            *("--model-id", MODEL_ID, "--kms-key", key, "--kms-endpoint", self.world.kms_url),
            environment=owner,
        )
        self.policy = self.policy_for(built.measurements)

    def __enter__(self) -> VmWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.__exit__(None, None, None)

    def policy_for(self, measurements: Path) -> Policy:
        """A client's policy: these measurements, the development root."""
        path = self.world.folder / f"policy-{measurements.stem}.json"
        run(
            *("policy", "create", "--measurements", str(measurements), "--out", str(path)),
            *("--root", str(self.world.root / "root.der")),
        )
        return Policy.load(path)

    @contextmanager
    def host(self, *options: str, eif: Path | None = None) -> Iterator[Process]:
        """A host with a machine; not yet ready."""
        with self.world.start(
            *("host", "run", str(self.package), "--platform", "vm", "--eif", str(eif or self.built.eif)),
            *("--memory", str(MEMORY), "--root", str(self.world.root), "--kms-endpoint", self.world.kms_url),
            *("--relay", "tcp://127.0.0.1:0", "--log-format", "json", *options),
            log="host.log",
            environment=self.world.environment("host"),
        ) as process:
            yield process

    def client(self, host: Process) -> Client:
        """A client of a host that is ready by now, or will be."""
        return Client(ready(host), policy=self.policy, timeout=SECONDS)


def ready(host: Process) -> str:
    """Wait until the enclave serves; where clients connect. A machine of software is slow."""
    return str(host.event("ready", seconds=SECONDS)["relay"])


def machine_of(host: Process) -> int:
    """The process of QEMU below a host."""
    waiting = [host.pid]
    while waiting:
        current = waiting.pop()
        for task in Path(f"/proc/{current}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
        if b"vhost-user-vsock-device,chardev=vsock" in Path(f"/proc/{current}/cmdline").read_bytes().split(b"\0"):
            return current
    raise AssertionError("the host has no machine")


def guest_memory(machine: int) -> tuple[int, int]:
    """Bytes of memory that a guest has, and of those that it has touched since its start."""
    for descriptor in list(Path(f"/proc/{machine}/fd").iterdir()):
        if "memfd:memory-backend-memfd" in str(descriptor.readlink()):
            found = descriptor.stat()
            return found.st_size, found.st_blocks * 512
    raise AssertionError("the machine has no memory of its own")


def _measure(eif: Path) -> Path:
    path = eif.with_suffix(".json")
    path.write_text(run("image", "measure", str(eif), "--json"))
    return path
