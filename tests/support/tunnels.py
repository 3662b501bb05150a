"""A real host, as far as an enclave that has its own TLS needs one."""

from __future__ import annotations

from pathlib import Path

from tls import Closable, Loop

from ephemeralml.host.metrics import HostMetrics
from ephemeralml.host.services import Services
from ephemeralml.package import FolderSource
from ephemeralml.session.transport import Address, listen


def tunnelling(loop: Loop, folder: Path, *, manifest: bytes, port: int, tunnel: bool) -> Address:
    """Where a host listens in `folder`, which has that manifest and tunnels to that port of this machine."""
    (folder / "manifest.cose").write_bytes(manifest)

    async def on_state(*_: str) -> None:
        raise AssertionError

    services = Services(
        lambda: FolderSource(folder),
        kms_endpoint=f"https://127.0.0.1:{port}",
        on_state=on_state,
        metrics=HostMetrics(),
        kms_tunnel=tunnel,
    )
    address = Address("unix", path=f"{folder}/services")

    async def listening() -> Closable:
        server, _ = await listen(address, services.connected)
        return server

    loop.start(listening())
    return address
