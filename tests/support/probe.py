"""Looks around in a running enclave, as root, and tells whoever calls what it saw. No release image has this."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from pathlib import Path

PORT = 5999
NOBODY = 65534
# The kernel's own; what they hold is not on any disk or in the image.
_KERNELS = ("/proc", "/sys")


def main() -> None:
    """Tell it to every caller, as it is then."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((socket.VMADDR_CID_ANY, PORT))
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(json.dumps(seen()).encode())


def seen() -> dict[str, object]:
    """What is there."""
    return {
        "programs": sorted(_programs()),
        "writable": {"root": _written_by(0), "enclave": _written_by(NOBODY)},
        "listening": [port for port in range(1, 65536) if _taken(port)],
        "processes": {int(entry.name): _process(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()},
    }


def _programs() -> list[str]:
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if str(Path(folder, name)) not in _KERNELS]
        for name in names:
            status = Path(folder, name).lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
                found.append(str(Path(folder, name)))
    return found


def _written_by(user: int) -> list[str]:
    """Folders in which that user can make a file, and files that it can open for writing."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setresuid(user, user, user)
        with os.fdopen(writer, "w") as pipe:
            json.dump(_written(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return list(json.load(pipe))


def _written() -> list[str]:
    found = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if str(Path(folder, name)) not in _KERNELS]
        for path in (Path(folder, "probe"), *(Path(folder, name) for name in names)):
            if path.exists() and not stat.S_ISREG(path.lstat().st_mode):
                continue
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            except OSError:
                continue
            found.append(str(path))
    return found


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as attempt:
        try:
            attempt.bind((socket.VMADDR_CID_ANY, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _process(entry: Path) -> dict[str, object]:
    status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
    # The kernel's own threads have no command.
    return {
        "command": (entry / "cmdline").read_bytes().decode().split("\0")[:-1],
        "user": int(status["Uid"].split()[0]),
        "capabilities": int(status.get("CapEff", "0"), 16),
    }


if __name__ == "__main__":
    main()
