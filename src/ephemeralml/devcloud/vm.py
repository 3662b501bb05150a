"""Enclaves as virtual machines on this one: the image that Nitro would start, under QEMU and a development root.

The kernel, its drivers and everything above them are the real ones; nothing of it is confidential.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ephemeralml.attestation import Measurements
from ephemeralml.devcloud.eif import Extracted, extract
from ephemeralml.devcloud.machine import Plan
from ephemeralml.devcloud.qemu import Qemu
from ephemeralml.errors import ConfigurationError
from ephemeralml.host.launch import EnclaveFailedError, RunningEnclave, wait_or_kill
from ephemeralml.host.nitro import ENCLAVE_PORT, WrongEnclaveError, show
from ephemeralml.session.transport import Address

SERVICES_PORT: Final = 5001

# As nitro-cli has it (ENCLAVE_MEMORY_EIF_SIZE_RATIO).
_MEMORY_TO_EIF: Final = 4
_MIB: Final = 1024 * 1024
_USAGE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VmLauncher:
    """Starts `eif` with `cpus` vCPUs and `memory` MiB under the development root in the folder `root`.

    `expected` measurements are compared with the image's before anything starts. In `debug` mode `on_console` hears the
    lines of its console, and all registers are zero, as on Nitro: no key is released to it. `services` is where the
    host listens for it, a Unix socket or a hybrid vsock; `folder` is for files and sockets, and its owner's alone.
    `address` is where the host finds it, a hybrid vsock and port 5000, if that is not to be in `folder`.
    """

    eif: Path
    cpus: int
    memory: int
    root: Path
    folder: Path
    services: Address
    on_console: Callable[[str], None]
    debug: bool = False
    expected: Measurements | None = None
    address: Address | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False, repr=False)

    async def start(self) -> RunningEnclave:
        """Raises `ConfigurationError`, `ImageError` and OSError for what cannot work, and `WrongEnclaveError`."""
        self._check()
        Qemu.find()
        # Each its own: two may run while one takes the other's place.
        folder = Path(tempfile.mkdtemp(prefix=f"enclave-{next(self._numbers)}-", dir=self.folder))
        try:
            plan = self._plan(await asyncio.to_thread(extract, self.eif, folder), folder)
            plan.save(folder / "plan.json")
            _lead_to(Path(self.services.listening_path), Path(f"{plan.vsock}_{SERVICES_PORT}"))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ephemeralml.devcloud.machine", str(folder / "plan.json")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        address = Address("vsock+unix", path=plan.vsock, port=ENCLAVE_PORT)
        return _Machine(process, address, folder=folder, on_console=self.on_console)

    def _check(self) -> None:
        if not self.services.listening_path:
            raise ConfigurationError(
                f"a virtual machine finds its host at a Unix socket, not at {self.services}: give --services "
                "unix:///path or vsock+unix:///path:PORT",
                code="vm.services",
            )
        if self.address is not None and (self.address.scheme, self.address.port) != ("vsock+unix", ENCLAVE_PORT):
            raise ConfigurationError(
                f"the host's end of a virtual machine's vsock is vsock+unix:///path:{ENCLAVE_PORT}, not {self.address}",
                code="vm.address",
            )
        size = self.eif.stat().st_size
        if size * _MEMORY_TO_EIF > self.memory * _MIB:
            raise ConfigurationError(
                f"{self.eif} has {size} bytes and an enclave needs {_MEMORY_TO_EIF} times its image: give at least "
                f"--memory {-(-size * _MEMORY_TO_EIF // _MIB)} (MiB)",
                code="vm.memory",
            )

    def _plan(self, image: Extracted, folder: Path) -> Plan:
        for index, pcr in (self.expected.registers if self.expected else {}).items():
            # PCR3 and 4 are of an instance and its role: only attestation knows them.
            if index not in {3, 4} and (found := image.pcrs.get(f"PCR{index}", "absent")) != pcr.hex():
                raise WrongEnclaveError(
                    f"{self.eif} is not the image that was expected: its PCR{index} is {found}, expected {pcr.hex()}; "
                    "check --eif and --measurements",
                    code="vm.measurements",
                    passing=False,
                )
        return Plan(
            kernel=str(image.kernel),
            ramdisk=str(image.ramdisk),
            cmdline=image.cmdline,
            vsock=str(folder / "vsock") if self.address is None else self.address.path,
            root=str(self.root.absolute()),
            pcrs={} if self.debug else {name.removeprefix("PCR"): value for name, value in image.pcrs.items()},
            memory=self.memory,
            cpus=self.cpus,
            console=self.debug,
        )


def _lead_to(services: Path, link: Path) -> None:
    """The guest's call to that port arrives where the host listens. Raises OSError where another host's link lives."""
    # Left by the machine before this one, or by a host that was killed.
    if link.is_symlink() and (link.readlink() == services or not link.exists()):
        link.unlink()
    link.symlink_to(services)


class _Machine:
    """The process of a machine: it ends with the machine, and the machine with it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        address: Address,
        *,
        folder: Path,
        on_console: Callable[[str], None],
    ) -> None:
        self.address = address
        self._process = process
        self._folder = folder
        self._showing = asyncio.ensure_future(show(process, on_console))

    async def wait(self) -> EnclaveFailedError:
        status = await self._process.wait()
        return EnclaveFailedError(
            "the enclave's machine ended: it crashed, was killed, or ran out of memory; start it with --debug to see "
            "its console",
            code="enclave.ended",
            passing=status != _USAGE,
        )

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await wait_or_kill(self._process)
        # Its last lines may say why; nobody else holds the other end.
        await self._showing
        Path(f"{self.address.path}_{SERVICES_PORT}").unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
