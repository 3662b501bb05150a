"""The machine and the software a result is worth anything with: read from Linux, never guessed; null where unknown."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

THREADS: Final = 2
"""Every case has two threads and two CPUs, client, relay and enclave together: a small enclave's share."""

_FLAGS: Final = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
)
_LIBRARIES: Final = (
    *("ephemeralml", "numpy", "onnxruntime", "tokenizers", "cryptography", "cbor2"),
    *("torch", "transformers", "sentence-transformers", "onnx", "openvino", "fastembed", "matplotlib"),
)


def describe() -> dict[str, Any]:
    """CPU, memory, kernel, versions, and how busy the machine was. Call it before the run."""
    cpu = _first_cpu()
    flags = set(cpu.get("flags", "").split())
    return {
        "cpu": {
            "model": cpu.get("model name"),
            "vendor": cpu.get("vendor_id"),
            "family": cpu.get("cpu family"),
            "model_number": cpu.get("model"),
            "cache": cpu.get("cache size"),
            "flags": [flag for flag in _FLAGS if flag in flags],
        },
        "cpus": os.cpu_count(),
        "cpus_used": len(os.sched_getaffinity(0)),
        "threads": THREADS,
        "memory_mb": _memory_mb(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "load_average_before": list(os.getloadavg()),
    }


def git_state(folder: Path = Path(__file__).parents[1]) -> dict[str, Any]:
    """Commit of the source that runs and whether that was changed since, new files too; nulls outside a clone."""
    commit, status = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return {"commit": commit or None, "dirty": bool(status) if status is not None else None}


@contextmanager
def two_cpus() -> Iterator[None]:
    """Keep this process and all it starts to `THREADS` CPUs, where the machine has more."""
    before = os.sched_getaffinity(0)
    _keep_to(sorted(before)[:THREADS])
    try:
        yield
    finally:
        _keep_to(before)


def busy(seconds: float = 1.0) -> float:
    """Share of all CPUs' time that others take while this process sleeps: what they would take of a measurement too."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(_cpu_times(), before, strict=True)]
    # user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)); what guests take is in user already.
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def _keep_to(cpus: Iterable[int]) -> None:
    # All threads: a BLAS started its own when it was imported.
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            os.sched_setaffinity(int(task.name), cpus)


def _cpu_times() -> list[int]:
    with Path("/proc/stat").open() as file:
        return [int(value) for value in file.readline().split()[1:9]]


def _first_cpu() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines}


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
