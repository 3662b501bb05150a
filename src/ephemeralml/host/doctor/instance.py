"""Checks of what an enclave takes on a Nitro instance: image, allocator, CPUs, memory, devices, nitro-cli.

Sources: AWS Nitro Enclaves User Guide, "Nitro Enclaves CLI: run-enclave"; aws-nitro-enclaves-cli,
bootstrap/nitro-enclaves-allocator; Linux, Documentation/virt/ne_overview.rst and admin-guide/mm/hugetlbpage.rst.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from ephemeralml.attestation import Measurements
from ephemeralml.errors import EphemeralMLError
from ephemeralml.host.doctor.finding import Finding
from ephemeralml.host.doctor.machine import MIB

Measure: TypeAlias = Callable[[Path], Mapping[str, str]]
"""The registers of an image, ``PCR0`` to their hex. Raises `OSError`, or `ImageError` for a damaged one."""

ALLOCATOR: Final = Path("/etc/nitro_enclaves/allocator.yaml")
ALLOCATOR_UNIT: Final = "nitro-enclaves-allocator.service"
EIF_MEMORY_FACTOR: Final = 4
"""Enclave memory that nitro-cli asks for, in sizes of the image: its file system lives in memory, unpacked."""

OLDEST_NITRO_CLI: Final = (1, 2)

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)
_MAX_CONFIG_BYTES: Final = 64 * 1024
_SECONDS: Final = 10
_SETTING: Final = re.compile(r"\s*(?:-\s+)?(memory_mib|cpu_count|cpu_pool)\s*:\s*\"?([0-9,\s-]+?)\"?\s*(?:#.*)?")
_CPU_LIST: Final = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
_RELOAD: Final = f"then `sudo systemctl restart {ALLOCATOR_UNIT}`"


def image(eif: Path, memory_mib: int, *, measure: Measure) -> tuple[Finding, Measurements | None]:
    """Whether the image is whole and has enclave memory enough, and its measurements."""
    check = "image"
    try:
        size = eif.stat().st_size
        registers = measure(eif)
        measurements = Measurements(pcr0=registers["PCR0"], pcr1=registers["PCR1"], pcr2=registers["PCR2"])
    except OSError as error:
        return Finding.failed(check, f"{eif}: {error.strerror}", "copy the enclave image (EIF) here, and name it"), None
    except EphemeralMLError as error:
        return Finding.failed(check, f"{eif}: {error}", "copy the image again, or build it again"), None
    needed = -(-EIF_MEMORY_FACTOR * size // MIB)
    said = f"{size / MIB:.0f} MiB, which takes {needed} MiB of enclave memory to boot; {memory_mib} MiB planned"
    if needed > memory_mib:
        return Finding.failed(check, said, f"--memory {needed} or more, here and for host run"), measurements
    return Finding.ok(check, said), measurements


def allocator_settings(cpus: int, memory_mib: int, *, path: Path = ALLOCATOR) -> Finding:
    """What is set aside at each start of the machine, against what is asked for."""
    fix = f"set memory_mib: {memory_mib} and cpu_count: {cpus} in {path}, {_RELOAD}"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG_BYTES).decode(errors="replace")
    except OSError as error:
        return Finding.failed("allocator", f"{path}: {error.strerror}", fix)
    settings = [match.groups() for match in map(_SETTING.fullmatch, text.splitlines()) if match]
    try:
        # Newer allocators take a list of enclaves; what they set aside adds up.
        memory = sum(int(value) for name, value in settings if name == "memory_mib")
        pools = [len(cpu_list(value)) for name, value in settings if name == "cpu_pool"]
        count = sum(int(value) for name, value in settings if name == "cpu_count") + sum(pools)
    except ValueError:
        return Finding.failed("allocator", f"{path} has a value that is no number or list of CPUs", fix)
    said = f"{memory} MiB and {count} CPUs set aside in {path}, {memory_mib} MiB and {cpus} CPUs asked for"
    return (
        Finding.ok("allocator", said)
        if memory >= memory_mib and count >= cpus
        else Finding.failed("allocator", said, fix)
    )


def allocator_service(command: Sequence[str] = ("systemctl", "is-active", ALLOCATOR_UNIT)) -> Finding:
    """Whether the allocator has run since the machine started."""
    check = "allocator service"
    done = _run(command)
    if done is None:
        return Finding.not_applicable(check, "no systemd here; the memory and CPUs below are what counts")
    if done.returncode:
        return Finding.failed(
            check,
            f"{ALLOCATOR_UNIT} is {_line(done.stdout) or 'not active'}",
            f"sudo systemctl enable --now {ALLOCATOR_UNIT}",
        )
    return Finding.ok(check, f"{ALLOCATOR_UNIT} is active")


def cpu_pool(
    cpus: int,
    *,
    pool: Path = Path("/sys/module/nitro_enclaves/parameters/ne_cpus"),
    present: Path = Path("/sys/devices/system/cpu/present"),
) -> Finding:
    """CPUs in the enclave pool. Which CPU can have enclaves at all is the instance type's affair: no flag shows it."""
    check = "enclave CPUs"
    fix = f"set cpu_count: {cpus} in {ALLOCATOR}, {_RELOAD}"
    try:
        all_cpus = len(cpu_list(present.read_text().strip()))
    except (OSError, ValueError) as error:
        return Finding.unknown(check, f"{present}: {_why(error)}", "run on Linux with /sys mounted")
    if all_cpus < cpus + 2:
        return Finding.failed(
            check,
            f"{all_cpus} CPUs, {cpus} asked for, and the host keeps the two of the first core",
            "a larger instance: four CPUs are the least",
        )
    try:
        listed = pool.read_text().strip()
        found = len(cpu_list(listed)) if listed else 0
    except (OSError, ValueError) as error:
        return Finding.failed(
            check,
            f"{pool}: {_why(error)}",
            "load the driver (sudo modprobe nitro_enclaves) on an instance with enclaves",
        )
    if found < cpus:
        return Finding.failed(check, f"{found} in the pool, {cpus} asked for", fix)
    return Finding.ok(check, f"{found} in the pool ({listed}), {cpus} asked for")


def huge_pages(memory_mib: int, *, folder: Path = Path("/sys/kernel/mm/hugepages")) -> Finding:
    """Memory set aside in huge pages, and how much of it no enclave has taken."""
    check = "enclave memory"
    total = free = 0
    try:
        for pages in folder.glob("hugepages-*kB"):
            size = int(pages.name.removeprefix("hugepages-").removesuffix("kB"))
            total += size * int((pages / "nr_hugepages").read_text())
            free += size * int((pages / "free_hugepages").read_text())
    except (OSError, ValueError) as error:
        return Finding.unknown(check, f"{folder}: {_why(error)}", "run on Linux with /sys mounted")
    said = f"{free // 1024} of {total // 1024} MiB in huge pages are free, {memory_mib} MiB asked for"
    if free // 1024 >= memory_mib:
        return Finding.ok(check, said)
    if total // 1024 >= memory_mib:
        return Finding.failed(
            check, said, "an enclave holds them: `nitro-cli describe-enclaves`, then terminate-enclave"
        )
    return Finding.failed(check, said, f"set memory_mib: {memory_mib} in {ALLOCATOR}, {_RELOAD}, or reboot")


def device(path: Path, fix: str) -> Finding:
    """A character device this user may open for reading and writing; opened for a moment."""
    check = str(path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return Finding.failed(check, "there, but not for this user", "sudo usermod -aG ne $USER, then log in again")
    except OSError as error:
        if error.errno == errno.EBUSY:
            return Finding.ok(check, "there, and in use")
        return Finding.failed(check, error.strerror or str(error), fix)
    return Finding.ok(check, "there, and this user may use it")


def security_module(path: Path = Path("/dev/nsm")) -> Finding:
    """The NSM exists inside an enclave only; where it does, the host is in the wrong place."""
    check = str(path)
    if path.exists():
        return Finding.failed(check, "this is the inside of an enclave", "run the host on the parent instance")
    return Finding.not_applicable(check, "exists inside an enclave only")


def nitro_cli(program: str = "nitro-cli") -> Finding:
    """Whether the nitro-cli on the PATH is new enough."""
    done = _run((program, "--version"))
    if done is None or done.returncode:
        said = "not on the PATH" if done is None else _line(done.stderr) or f"exit status {done.returncode}"
        return Finding.failed("nitro-cli", said, "sudo dnf install aws-nitro-enclaves-cli")
    said = _line(done.stdout)
    version = _VERSION.search(said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NITRO_CLI:
        fix = "sudo dnf upgrade aws-nitro-enclaves-cli: {}.{} or newer".format(*OLDEST_NITRO_CLI)
        return Finding.failed("nitro-cli", said or "it does not tell its version", fix)
    return Finding.ok("nitro-cli", said)


def cpu_list(text: str) -> frozenset[int]:
    """The CPUs in a kernel list such as ``1-3,7``. Raises `ValueError`."""
    if _CPU_LIST.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is no list of CPUs")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """None when there is no such program, or it does not end."""
    try:
        return subprocess.run(  # noqa: S603 - a fixed command line
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else ""


def _why(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
