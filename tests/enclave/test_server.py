"""An enclave that cannot show evidence stays up and refuses; its operator hears so, once for each reason."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gated import booted
from samples import PCRS
from sealed import PATIENCE

from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave import __main__ as program
from ephemeralml.enclave.security_module import SecurityModule
from ephemeralml.enclave.server import Server
from ephemeralml.enclave.tally import Tally
from ephemeralml.inference import Batcher, Encoder
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.handshake import ClientHandshake
from ephemeralml.session.messages import Notice
from ephemeralml.session.transport import Address


class Module(SecurityModule):
    """A software NSM `ahead` of the system's clock; without one, it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead: timedelta | None = timedelta()
        self._nsm = SoftwareNsm(
            DevelopmentRoot.create(), PCRS, clock=lambda: datetime.now(UTC) + (self.ahead or timedelta())
        )

    def _exchange(self, request: bytes) -> bytes:
        return b"" if self.ahead is None else self._nsm.handle(request)


async def first_word(path: Path) -> tuple[FrameType, bytes]:
    """What the enclave answers to HELLO."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(ClientHandshake().hello())
    async with asyncio.timeout(PATIENCE):
        header = await reader.readexactly(HEADER.size)
        size, kind = HEADER.unpack(header)
        body = await reader.readexactly(size)
    writer.close()
    await writer.wait_closed()
    return FrameType(kind), body


def test_handshakes_that_are_refused_are_told_of_once(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Module()
    encoder = Encoder.from_folder(tiny_model)

    async def ask(_: Address) -> None:
        for ahead, code in [
            *[(timedelta(hours=1), "clock.drift")] * 2,
            *[(None, "nsm.failed")] * 2,
            (timedelta(hours=-1), "clock.drift"),
        ]:
            module.ahead = ahead
            kind, body = await first_word(tmp_path / "enclave")
            assert (kind, Notice.from_bytes(body).code) == (FrameType.ALERT, code)
        module.ahead = timedelta()
        assert (await first_word(tmp_path / "enclave"))[0] is FrameType.EVIDENCE
        server.drain()

    with Batcher(encoder) as batcher:
        server = Server(booted(encoder, module), batcher=batcher, tally=Tally(), on_refusing=program._print_refusing)
        asyncio.run(server.serve(Address("unix", path=f"{tmp_path}/enclave"), ready=ask))
    assert capsys.readouterr().err.splitlines() == [
        f"enclave: refusing handshakes [{code}]" for code in ("clock.drift", "nsm.failed")
    ]
