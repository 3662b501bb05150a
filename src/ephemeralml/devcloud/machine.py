"""A virtual machine and its hypervisor's part, a process of its own: two devices, the heartbeat, QEMU.

A process, not a thread of the host: memory shared with a guest is nothing to have beside clients' connections, a guest
that keeps its devices busy slows itself alone, and whatever ends one of both ends the other. It is started by
`VmLauncher` with a plan in a file and runs until QEMU ends or its standard input does.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import re
import signal
import socket
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.qemu import Qemu
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.devcloud.vhost import Backend, NsmDevice, VsockDevice
from ephemeralml.errors import EphemeralMLError
from ephemeralml.session.sockets import bound
from ephemeralml.session.transport import BACKLOG, Address, listen, raise_descriptor_limit

CID: Final = 4
"""The guest's; each machine has a vsock of its own."""

# VIRTIO_ID_NITRO_SEC_MOD of Linux.
_NSM: Final = 33
# What says that an enclave is up, and where (init of aws-nitro-enclaves-sdk-bootstrap).
_HEARTBEAT: Final = b"\xb7"
_HEARTBEAT_PORT: Final = 9000
_DIE_WITH_PARENT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run: paths and texts. `vsock` is the host's end, `pcrs` are hex by number, `memory` is in MiB."""

    kernel: str
    ramdisk: str
    cmdline: str
    vsock: str
    root: str
    pcrs: dict[str, str]
    memory: int
    cpus: int
    console: bool

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


async def run(plan: Plan, folder: Path) -> int:
    """Run the machine to its end, with sockets in `folder`; returns QEMU's exit status, 0 when told to stop."""
    qemu = Qemu.find()
    pcrs = {int(index): bytes.fromhex(value) for index, value in plan.pcrs.items()}
    nsm_path, vsock_path = folder / "nsm.vhost", folder / "vsock.vhost"
    vsock = VsockDevice(cid=CID, path=Path(plan.vsock), listener=_listening(Path(plan.vsock)))
    nsm = NsmDevice(SoftwareNsm(DevelopmentRoot.load(Path(plan.root)), pcrs))
    heartbeat, _ = await listen(Address("unix", path=f"{plan.vsock}_{_HEARTBEAT_PORT}"), _beat)
    with (
        closing(vsock),
        closing(Backend(vsock, _listening(vsock_path))),
        closing(Backend(nsm, _listening(nsm_path))),
        closing(heartbeat),
    ):
        process = await asyncio.create_subprocess_exec(
            *qemu.command(*_options(plan, nsm=nsm_path, vsock=vsock_path)),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        ended, told = asyncio.ensure_future(process.wait()), asyncio.ensure_future(_told())
        try:
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else 0
        finally:
            told.cancel()
            if not ended.done():
                # It has nothing to lose: no disk, and a guest whose clients were told before.
                process.kill()
                await ended


def _options(plan: Plan, *, nsm: Path, vsock: Path) -> list[str]:
    return [
        *("-M", "microvm,acpi=off,rtc=on,memory-backend=memory", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", str(plan.cpus), "-m", f"{plan.memory}M"),
        # Shared with the devices' process, and with nobody else.
        *("-object", f"memory-backend-memfd,id=memory,size={plan.memory}M,share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-chardev", "stdio,id=console,signal=off" if plan.console else "null,id=console"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=vsock,path={vsock}", "-device", "vhost-user-vsock-device,chardev=vsock"),
        *("-chardev", f"socket,id=nsm,path={nsm}"),
        *("-device", f"vhost-user-test-device,chardev=nsm,virtio-id={_NSM}"),
        *("-kernel", plan.kernel, "-initrd", plan.ramdisk),
        *("-append", f"{plan.cmdline} {_machine_words()}"),
    ]


def _machine_words() -> str:
    """Words for this machine alone, which no register has: Nitro's hypervisor has some of its own too.

    There is no keyboard controller to restart it with, and no timer to find out how fast the clock runs: it is the
    host's under TCG.
    """
    words = ["reboot=t", "tsc=reliable"]
    if match := re.search(r"^cpu MHz\s*: ([0-9.]+)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE):
        words.append(f"tsc_early_khz={round(float(match[1]) * 1000)}")
    return " ".join(words)


def _listening(path: Path) -> socket.socket:
    listener = bound(Address("unix", path=str(path)))
    listener.listen(BACKLOG)
    return listener


async def _beat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        if await reader.read(1) == _HEARTBEAT:
            writer.write(_HEARTBEAT)


async def _told() -> None:
    """Return when the launcher closes our standard input, or has ended itself."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _die_with_parent() -> None:
    # prctl(2): killed as it was, this process takes no machine with it else.
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def main() -> int:
    """Run the plan in the file that is the only argument; its folder is ours for sockets."""
    path = Path(sys.argv[1])
    # A Ctrl-C at the terminal is the launcher's to pass on, in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_descriptor_limit()
    try:
        return asyncio.run(run(Plan.load(path), path.parent))
    except (EphemeralMLError, OSError) as error:
        print(f"machine: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, EphemeralMLError) else 1


if __name__ == "__main__":
    sys.exit(main())
