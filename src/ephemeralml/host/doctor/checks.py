"""Which checks a platform needs, in the order in which one would mend what they find."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from ephemeralml.attestation import Measurements
from ephemeralml.host.doctor import instance, machine
from ephemeralml.host.doctor.finding import Finding

# `make demo` on the development machine: 491 MiB of memory at its peak, all processes together (PSS), 366 MB on disk.
_LOCAL_MEMORY_MIB: Final = 600
_LOCAL_DISK_MIB: Final = 400
# The host's own process had 62 MiB there; with an enclave it keeps nothing on disk but nitro-cli's logs.
_HOST_MEMORY_MIB: Final = 256
_HOST_DISK_MIB: Final = 64

_HOST_MODULES: Final = ("numpy", "cryptography", "cbor2", "boto3")
_VM_MODULES: Final = (*_HOST_MODULES, "starlette", "uvicorn")
_LOCAL_MODULES: Final = (*_VM_MODULES, "onnxruntime", "tokenizers")


class Platform(StrEnum):
    """Where the enclave is to run."""

    LOCAL = "local"
    NITRO = "nitro"
    VM = "vm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The run that is meant, in the terms of `host run`.

    `measure` reads an image and `find_qemu` looks for an emulator, which no zone does itself. `owner` is the model
    owner's key in the enclave's configuration, None where that is not at hand.
    """

    platform: Platform
    eif: Path | None
    measure: instance.Measure
    find_qemu: machine.FindQemu
    memory_mib: int
    cpus: int
    package: str | None
    owner: bytes | None
    key_arn: str | None
    relay: str


def examine(plan: Plan) -> Iterator[Finding]:
    """Every finding for this plan, as it is made. Never raises for what it finds."""
    yield machine.python_version()
    temporary = Path(tempfile.gettempdir())
    if plan.platform is Platform.LOCAL:
        yield machine.packages(_LOCAL_MODULES, extra="enclave,host,devcloud")
        yield machine.model()
        yield machine.memory_available(_LOCAL_MEMORY_MIB)
        yield machine.disk_space(temporary, _LOCAL_DISK_MIB)
    elif plan.platform is Platform.VM:
        yield machine.packages(_VM_MODULES, extra="host,devcloud")
        yield machine.memory_available(_HOST_MEMORY_MIB + plan.memory_mib)
        # The image is taken apart there; it is a quarter of the enclave's memory at most.
        yield machine.disk_space(temporary, _HOST_DISK_MIB + plan.memory_mib // instance.EIF_MEMORY_FACTOR)
        yield machine.emulator(plan.find_qemu)
        yield _image(plan)[0]
    else:
        yield machine.packages(_HOST_MODULES, extra="host")
        yield machine.memory_available(_HOST_MEMORY_MIB)
        yield machine.disk_space(temporary, _HOST_DISK_MIB)
    yield machine.descriptor_limit()
    yield machine.relay_address(plan.relay)
    if plan.platform is Platform.NITRO:
        yield from _nitro(plan)


def _nitro(plan: Plan) -> Iterator[Finding]:
    yield instance.nitro_cli()
    found, measurements = _image(plan)
    yield found
    yield instance.allocator_settings(plan.cpus, plan.memory_mib)
    yield instance.allocator_service()
    yield instance.cpu_pool(plan.cpus)
    yield instance.huge_pages(plan.memory_mib)
    yield instance.device(
        Path("/dev/nitro_enclaves"),
        "stop the instance, enable enclaves (EnclaveOptions), start it, then `sudo modprobe nitro_enclaves`",
    )
    yield instance.device(Path("/dev/vsock"), "sudo modprobe vsock")
    yield instance.security_module()
    yield from _cloud(plan, measurements)


def _image(plan: Plan) -> tuple[Finding, Measurements | None]:
    if plan.eif is None:
        return Finding.unknown("image", "no image given", "--eif with the enclave image"), None
    return instance.image(plan.eif, plan.memory_mib, measure=plan.measure)


def _cloud(plan: Plan, measurements: Measurements | None) -> Iterator[Finding]:
    try:
        from ephemeralml.host.doctor import aws  # noqa: PLC0415 - boto3 takes a third of a second
    except ImportError:
        yield Finding.unknown("role", "boto3 is not there", "see packages")
        return
    found, caller, server = aws.role()
    yield found
    yield machine.clock(server=server, now=datetime.now(UTC))
    found, manifest = aws.package(plan.package, owner=plan.owner)
    yield found
    yield aws.key(plan.key_arn, manifest, measurements, caller=caller)
