"""The local stand-in for the Nitro hypervisor: measures an enclave, starts it as a process, and is its NSM.

The software NSM lives here and not in the enclave, so the enclave can no more choose its measurements than a real one.
Nothing about this is confidential: whoever runs this process can read the enclave's memory.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ephemeralml.devcloud.measure import ENCLAVE, build_image, measure
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.devcloud.vsock import HybridVsock
from ephemeralml.enclave import init
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.errors import ConfigurationError
from ephemeralml.session.transport import Address

_LENGTH = struct.Struct(">I")
_REQUEST_BYTES = 0x1000
# Less than a launcher waits for us.
_STOP_SECONDS = 8
# With one heap for all threads, what loading takes is used again (4 MB).
ENVIRONMENT = init.ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}
"""All that an enclave's process finds."""
# VMADDR_CID_HOST, and the parent instance of a Nitro enclave.
_HOST_CIDS = (2, 3)


class LocalEnclave:
    """A started enclave process and the thread that answers its NSM requests. Use as a context manager.

    With `vsock`, `listen` and `host` are vsock addresses, and the host has its end as a hybrid vsock at that path.
    Raises `ConfigurationError` for addresses that are not, and for a path where somebody listens.
    """

    def __init__(
        self,
        *,
        configuration: Path,
        listen: Address,
        host: Address,
        root: DevelopmentRoot,
        vsock: Path | None = None,
        program: str = ENCLAVE,
    ) -> None:
        # Read once: what is measured below is what the enclave gets, whatever happens to the file meanwhile.
        content = Configuration.read(configuration)
        measured, image = Configuration.parse(content).to_bytes(), build_image(program=program)
        self._device = ExitStack()
        if vsock is not None:
            listen, host = _plugged(self._device, vsock, listen=listen, host=host)
        ours, theirs = socket.socketpair()
        self._nsm = ours
        with theirs, _sealed(content) as settings, _sealed(image) as code:
            # No environment but the interpreter's own needs: credentials of the host stay outside.
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    *(sys.executable, "-I", "-S", f"/proc/self/fd/{code.fileno()}"),
                    *("--configuration", f"/proc/self/fd/{settings.fileno()}"),
                    *("--listen", str(listen)),
                    *("--host", str(host)),
                    *("--nsm-fd", str(theirs.fileno())),
                    sysconfig.get_path("platlib"),
                ],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(), settings.fileno(), code.fileno()),
                env=ENVIRONMENT,
                start_new_session=True,
            )
        # Measured after the start, so that both happen at once; the enclave waits for the NSM's first answer.
        try:
            software = SoftwareNsm(root, measure(measured, image=image))
        except BaseException:
            self.close()
            raise
        threading.Thread(target=_serve_nsm, args=(ours, software), name="nsm", daemon=True).start()

    def __enter__(self) -> LocalEnclave:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> int:
        """Wait for the enclave to end; returns its exit status."""
        return self.process.wait()

    def close(self) -> None:
        """Stop the enclave: kindly, so that it answers what it has in work, then not."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._nsm.close()
        self._device.close()


def _plugged(device: ExitStack, path: Path, *, listen: Address, host: Address) -> tuple[Address, Address]:
    """A vsock whose host side is at `path`, and what becomes of the enclave's addresses: a process has none itself."""
    if not listen.scheme == host.scheme == "vsock" or not listen.port or not host.port or host.cid not in _HOST_CIDS:
        raise ConfigurationError(
            f"an enclave on a vsock listens on vsock://any:PORT and finds its host at vsock://2:PORT, not {listen} and "
            f"{host}",
            code="enclave.vsock",
        )
    folder = device.enter_context(tempfile.TemporaryDirectory(prefix="ephemeralml-"))
    device.enter_context(HybridVsock(host=path, guest=Path(folder) / "vsock"))
    inside = partial(Address, "vsock+unix", path=f"{folder}/vsock")
    return inside(port=listen.port), inside(port=host.port)


def _sealed(content: bytes) -> BinaryIO:
    """A file in memory that nobody can change any more (memfd_create(2))."""
    file = os.fdopen(os.memfd_create("enclave", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    file.write(content)
    file.flush()
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return file


def _serve_nsm(connection: socket.socket, software: SoftwareNsm) -> None:
    with connection, connection.makefile("rwb") as stream:
        try:
            while len(header := stream.read(_LENGTH.size)) == _LENGTH.size:
                (length,) = _LENGTH.unpack(header)
                if length > _REQUEST_BYTES:
                    return
                answer = software.handle(stream.read(length))
                stream.write(_LENGTH.pack(len(answer)) + answer)
                stream.flush()
        except (OSError, ValueError):
            return
