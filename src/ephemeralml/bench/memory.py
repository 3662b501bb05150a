"""What a process takes, by the kernel's own count: it is asked inside the image too, which has few modules."""

from __future__ import annotations

from pathlib import Path


def memory_of(pid: int) -> dict[str, float]:
    """VmHWM (peak) and VmRSS (now) of a process in MB of 10^6 bytes, from /proc/PID/status (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(values[name].split()[0]) * 1024 / 1e6 for name in ("VmHWM", "VmRSS")}
