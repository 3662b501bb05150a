"""PID 1 of the enclave's image: readies the machine, runs the enclave, and ends the machine with it.

The kernel starts this file as ``/init``, before anything else is there: it needs the standard library alone. Its words
go to the console, which nobody outside can read unless the enclave is in debug mode; they are its own and errno's.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from typing import Final, NoReturn

INTERPRETER: Final = "/usr/bin/python3.13"
FLAGS: Final = "-ISBu"
"""Isolated, without `site`, nothing written, nothing buffered."""

MODULE: Final = "ephemeralml.enclave.__main__"
"""What is run. The builder of the benchmark's image puts another name here."""

APPLICATION: Final = "/app"
LIBRARIES: Final = "/app/lib"
CONFIGURATION: Final = "/app/configuration.json"
# Where the host's launchers look for it, and its host as an enclave sees it.
_PLACES: Final = ("--listen", "vsock://any:5000", "--host", "vsock://3:5001")
_PROGRAM: Final = f"""import sys
sys.path[:0] = [{APPLICATION!r}, {LIBRARIES!r}]
from {MODULE} import main
raise SystemExit(main())
"""
# With one heap for all threads, what loading takes is used again (4 MB).
ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1", "TOKENIZERS_PARALLELISM": "false"}

# The driver of AWS's kernel; one of our own has it built in.
_NSM_MODULE: Final = "/nsm.ko"
# How Nitro learns that an enclave is up (aws-nitro-enclaves-sdk-bootstrap, init/init.c).
_HEARTBEAT: Final = b"\xb7"
_HEARTBEAT_AT: Final = (3, 9000)
_HEARTBEAT_SECONDS: Final = 20

# mount(2), prctl(2), reboot(2) and finit_module(2), from their headers for x86_64.
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 0x1, 0x2, 0x4, 0x8, 0x20, 0x1000
_SET_NO_NEW_PRIVS: Final = 38
_RESTART: Final = 0x01234567
_FINIT_MODULE: Final = 313


class StartError(Exception):
    """The machine cannot be readied; says why."""


def main() -> NoReturn:
    """Run the enclave to its end and restart the machine, which for an enclave is the end of it."""
    reason = "stopped by an internal error"
    try:
        ready()
        reason = reap(start())
    except (OSError, StartError) as error:
        reason = str(error)
    finally:
        say(reason)
        # What is on its way to the console gets there.
        time.sleep(0.1)
        _libc().reboot(_RESTART)
        os._exit(1)


def ready() -> None:
    """Devices, console, driver, heartbeat, file systems. Raises OSError or `StartError`."""
    mount("devtmpfs", "/dev", _NOSUID | _NOEXEC, "mode=0755")
    console = os.open("/dev/console", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(console, descriptor)
    load(_NSM_MODULE)
    beat()
    mount("proc", "/proc", _NOSUID | _NODEV | _NOEXEC)
    mount("sysfs", "/sys", _NOSUID | _NODEV | _NOEXEC | _RDONLY)
    # From here on nothing can be written.
    mount("", "/dev", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NOEXEC)
    mount("", "/", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    if _libc().prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _failed("prctl")


def mount(kind: str, target: str, flags: int, options: str = "") -> None:
    """Mount a file system of the kernel's own. Raises OSError."""
    name = kind.encode()
    if _libc().mount(name, target.encode(), name, ctypes.c_ulong(flags), options.encode()) != 0:
        raise _failed(target)


def load(path: str) -> None:
    """Load a kernel module, if there is one. Raises OSError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if _libc().syscall(_FINIT_MODULE, file, b"", 0) != 0:
        raise _failed(path)
    os.close(file)


def beat() -> None:
    """Tell the hypervisor that the enclave is up. Raises `StartError` when it does not hear."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
            connection.settimeout(_HEARTBEAT_SECONDS)
            connection.connect(_HEARTBEAT_AT)
            connection.sendall(_HEARTBEAT)
            answer = connection.recv(1)
    except OSError as error:
        raise StartError(f"no heartbeat: the hypervisor does not answer at port {_HEARTBEAT_AT[1]}: {error}") from None
    if answer != _HEARTBEAT:
        raise StartError("no heartbeat: the hypervisor answers something else")


def start() -> int:
    """The process of the enclave itself."""
    command = [INTERPRETER, FLAGS, "-c", _PROGRAM, "--configuration", CONFIGURATION, *_PLACES]
    return os.posix_spawn(INTERPRETER, command, ENVIRONMENT, setsid=True)


def reap(enclave: int) -> str:
    """Wait until the enclave's process has ended, whatever else ends before; says how it did."""
    while True:
        process, status = os.wait()
        if process == enclave:
            code = os.waitstatus_to_exitcode(status)
            return f"the enclave was killed by signal {-code}" if code < 0 else f"the enclave ended with status {code}"


def say(what: str) -> None:
    """A line on the console, if there is one by now."""
    try:
        os.write(2, f"init: {what}\n".encode(errors="replace"))
    except OSError:
        return


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failed(what: str) -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


if __name__ == "__main__":
    # An enclave's first process, or nothing: it would restart the machine.
    if os.getpid() != 1:
        sys.exit("init: this is the first process of an enclave's image, not for the command line")
    main()
