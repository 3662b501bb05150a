"""The enclave's process: started by a hypervisor or its local stand-in, never by hand (`ephemeralml enclave run`)."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ephemeralml.enclave.boot import Booted, boot
from ephemeralml.enclave.clock import require_clock_source
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.enclave.entropy import seed_kernel
from ephemeralml.enclave.nsm import DEVICE, NitroSecurityModule
from ephemeralml.enclave.security_module import SecurityModule, SocketSecurityModule
from ephemeralml.enclave.server import Server
from ephemeralml.enclave.tally import Tally, keep_telling
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import EphemeralMLError
from ephemeralml.inference import Batcher
from ephemeralml.session.transport import Address, raise_descriptor_limit

_NOBODY = 65534

Work = Callable[[Booted, Address, Upstream], None]
"""What a booted enclave does, at the address where its host finds it."""


def main(work: Work | None = None) -> int:
    """Boot, do the `work` (serve clients), and say on the console only states and codes. Returns the exit status."""
    # Texts and keys live in this memory: no core file may hold them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    raise_descriptor_limit()
    sys.excepthook = threading.excepthook = sys.unraisablehook = _print_nothing
    parser = argparse.ArgumentParser(prog="ephemeralml.enclave")
    parser.add_argument("--configuration", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--host", required=True)
    platform = parser.add_mutually_exclusive_group()
    platform.add_argument("--nsm-device", type=Path, default=DEVICE)
    platform.add_argument("--nsm-fd", type=int)
    arguments = parser.parse_args()
    try:
        upstream = Upstream(Address.parse(arguments.host))
    except EphemeralMLError as error:
        return _failed(error)
    try:
        configuration = Configuration.load(arguments.configuration)
        listen = Address.parse(arguments.listen)
        module = security_module(device=arguments.nsm_device, descriptor=arguments.nsm_fd)
        if arguments.nsm_fd is None:
            give_up_root()
        booted = boot(configuration, module=module, upstream=upstream)
        (work or serve_clients)(booted, listen, upstream)
    except EphemeralMLError as error:
        upstream.report("failed", code=error.code, message=str(error))
        return _failed(error)
    except KeyboardInterrupt:
        pass
    # A traceback could carry plaintext to the host's console: only the type of an unforeseen error may leave.
    except Exception as error:
        upstream.report("failed", code="internal", message=type(error).__name__)
        print(f"enclave: stopped by an internal error ({type(error).__name__})", file=sys.stderr)
        return 1
    return 0


def serve_clients(booted: Booted, listen: Address, upstream: Upstream) -> None:
    """Answer sealed requests until told to stop."""
    with Batcher(booted.encoder) as batcher:
        asyncio.run(_serve(booted, batcher, listen, upstream))


def security_module(*, device: Path, descriptor: int | None) -> SecurityModule:
    """The local platform's module on `descriptor`, else the NSM at `device`, of an enclave that was seen to be sound.

    Raises `SecurityModuleError` or `PlatformError`.
    """
    if descriptor is not None:
        return SocketSecurityModule(socket.socket(fileno=descriptor))
    module = NitroSecurityModule.open(device)
    # Before any key is made.
    seed_kernel(module)
    require_clock_source()
    return module


def give_up_root() -> None:
    """Become a user who owns nothing: the device is open and the pool is seeded, which is all that took root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


async def _serve(booted: Booted, batcher: Batcher, listen: Address, upstream: Upstream) -> None:
    tally = Tally()
    server = Server(booted, batcher=batcher, tally=tally, on_refusing=_print_refusing)

    async def ready(address: Address) -> None:
        stages = ", ".join(f"{name} {value:.0f} ms" for name, value in booted.stages.items())
        print(f"enclave: serving on {address} ({stages})", file=sys.stderr, flush=True)
        await asyncio.to_thread(upstream.report, "ready", message=stages)
        keep_telling(tally, boot=booted.boot_id, tell=upstream.count)

    serving = asyncio.create_task(server.serve(listen, ready=ready))
    loop = asyncio.get_running_loop()

    def told_to_stop() -> None:
        if server.drain():
            print("enclave: stopping; what is in work is answered first", file=sys.stderr, flush=True)
        else:
            serving.cancel()

    loop.add_signal_handler(signal.SIGTERM, told_to_stop)
    if isinstance(booted.module, SocketSecurityModule):
        # The hypervisor's stand-in holds the other end of standard input: an enclave does not outlive it.
        loop.add_reader(sys.stdin, serving.cancel)
    loop.set_exception_handler(_report_type)
    try:
        await serving
    except asyncio.CancelledError:
        return


def _print_refusing(code: str) -> None:
    print(f"enclave: refusing handshakes [{code}]", file=sys.stderr, flush=True)


def _print_nothing(*_: object) -> None:
    print("enclave: an internal error ended a thread", file=sys.stderr, flush=True)


def _report_type(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, asyncio.CancelledError):
        return
    kind = type(error).__name__
    print(f"enclave: a connection ended with an internal error ({kind})", file=sys.stderr, flush=True)


def _failed(error: EphemeralMLError) -> int:
    print(f"enclave: {error} [{error.code}]", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
