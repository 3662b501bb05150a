"""An enclave that is told to stop answers what it has in work, says that it is going, and is gone, whoever resists."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from frames import read_frame
from samples import OWNER, PCRS, make_manifest
from sealed import PATIENCE, Session, request

from ephemeralml.attestation import Policy
from ephemeralml.devcloud import hypervisor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave import __main__ as program
from ephemeralml.enclave import connection as module
from ephemeralml.enclave.boot import Booted
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.enclave.security_module import SocketSecurityModule
from ephemeralml.enclave.server import Server
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import TransportError
from ephemeralml.inference import Batcher, Encoder
from ephemeralml.session.blocking import write_all
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.handshake import ClientHandshake
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES
from ephemeralml.session.messages import Notice, Response
from ephemeralml.session.transport import Address, connect


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Enclave:
    """A real enclave, but for its process; its engine waits while `go` is not set, as in the middle of a long run."""

    def __init__(self, folder: Path, model: Path) -> None:
        root = DevelopmentRoot.create()
        ours, theirs = socket.socketpair()
        threading.Thread(target=hypervisor._serve_nsm, args=(ours, SoftwareNsm(root, PCRS)), daemon=True).start()
        self._nsm = theirs
        self.policy = Policy.insecure_any_measurement(extra_roots=[root.der])
        self.listen = Address("unix", path=f"{folder}/enclave")
        self.address = str(self.listen)
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.embedded = 0
        encoder = Encoder.from_folder(model)
        engine = encoder.run

        def run(ids: Sequence[Sequence[int]]) -> np.ndarray:
            self.entered.set()
            assert self.go.wait(PATIENCE)
            self.embedded += len(ids)
            return engine(ids)

        encoder.run = run  # type: ignore[method-assign]
        manifest = make_manifest(model_id="tiny", dimension=encoder.dimension)
        self.booted = Booted(
            configuration=Configuration(model_owner=OWNER.public_key().public_bytes_raw()),
            module=SocketSecurityModule(theirs),
            manifest=manifest,
            signed_manifest=manifest.sign(OWNER),
            encoder=encoder,
            boot_id=b"b" * 16,
            receipt_key=Ed25519PrivateKey.generate(),
            stages={},
        )

    def close(self) -> None:
        self.go.set()
        self._nsm.close()


class Running:
    """An enclave that serves, in a thread."""

    def __init__(self, enclave: Enclave, batcher: Batcher) -> None:
        self.policy, self.address = enclave.policy, enclave.address
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(enclave, batcher)))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    async def _serve(self, enclave: Enclave, batcher: Batcher) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = Server(enclave.booted, batcher=batcher, on_refusing=pytest.fail)

        async def ready(_: Address) -> None:
            self._ready.set()

        await self.server.serve(enclave.listen, ready=ready)

    @property
    def connections(self) -> list[module.Connection]:
        return list(self.server._connections)

    def in_work(self, count: int) -> None:
        """Waits until so many requests are."""
        await_(lambda: sum(len(connection._asked) for connection in self.connections) == count)

    def drain(self) -> None:
        """Tells it to stop, and waits until every session was told."""
        self.loop.call_soon_threadsafe(self.server.drain)
        await_(lambda: all(one.ending or one._answered is not None for one in self.connections))

    def ended(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it serves on"


@pytest.fixture
def enclave(tmp_path: Path, tiny_model: Path) -> Iterator[Enclave]:
    made = Enclave(tmp_path, tiny_model)
    yield made
    made.close()


@pytest.fixture
def running(enclave: Enclave) -> Iterator[Running]:
    with Batcher(enclave.booted.encoder) as batcher:
        made = Running(enclave, batcher)
        yield made
        enclave.go.set()
        if not made.loop.is_closed():
            made.loop.call_soon_threadsafe(made.server.drain)
        made.ended()


def goodbye(session: Session) -> str:
    """The code of the CLOSE that is the next and last word."""
    kind, plaintext = session.receive()
    assert kind is FrameType.CLOSE
    assert session.ended()
    return Notice.from_bytes(plaintext).code


def test_requests_in_work_are_answered_and_no_others(enclave: Enclave, running: Running) -> None:
    with Session(running).open() as session:
        enclave.go.clear()
        for number in range(3):
            session.send(request("a text", number=number))
        running.in_work(3)
        running.drain()
        session.send(request("too late", number=3))
        enclave.go.set()
        answered = set()
        for _ in range(3):
            kind, plaintext = session.receive()
            assert kind is FrameType.RESPONSE
            answered.add(Response.from_bytes(plaintext).id)
        assert answered == {0, 1, 2}
        assert goodbye(session) == "restart"
    running.ended()
    assert enclave.embedded == 3


def test_nobody_can_connect_meanwhile(enclave: Enclave, running: Running) -> None:
    with Session(running).open() as session:
        enclave.go.clear()
        session.send(request("a text"))
        running.in_work(1)
        running.drain()
        with pytest.raises(TransportError):
            connect(enclave.listen, timeout=PATIENCE)
        # One whom the kernel let in just before.
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        asyncio.run_coroutine_threadsafe(
            running.loop.connect_accepted_socket(running.server._connection, theirs), running.loop
        ).result(PATIENCE)
        with ours:
            kind, body = read_frame(ours, limit=HANDSHAKE_FRAME_BYTES)
            assert (kind, Notice.from_bytes(body).code) == (FrameType.ALERT, "unavailable")
            assert ours.recv(1) == b""
        enclave.go.set()
        assert session.receive()[0] is FrameType.RESPONSE
        assert goodbye(session) == "restart"


def test_an_idle_session_is_told_and_not_waited_for(running: Running) -> None:
    with Session(running).open() as silent, Session(running).open() as session:
        session.embed("a text")
        running.drain()
        running.ended()
        # It reads only now, after the enclave has gone.
        for one in (silent, session):
            assert goodbye(one) == "restart"


def test_what_takes_too_long_stays_unanswered(
    enclave: Enclave, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)
    with Session(running).open() as session:
        enclave.go.clear()
        session.send(request("a text"))
        running.in_work(1)
        running.drain()
        assert goodbye(session) == "restart"
        running.ended()


def test_a_client_that_never_reads_is_not_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)
    with Session(running).open() as session:
        # Answers of 128 KiB: more than lies between the two.
        for number in range(16):
            session.send(request(*["a"] * 1000, number=number))
        await_(lambda: any(one._full for one in running.connections))
        running.drain()
        running.ended()


@pytest.mark.parametrize("sent", [3, HEADER.size, 600])
def test_half_a_request_is_not_waited_for(running: Running, sent: int) -> None:
    with Session(running).open() as session, Session(running).open() as other:
        frame = session._sealer.seal(FrameType.REQUEST, request("a text"))
        write_all(session.connection, frame[:sent])
        if sent > HEADER.size:
            await_(lambda: running.server._budget._used == sent - HEADER.size)
        running.drain()
        write_all(session.connection, frame[sent:])
        assert goodbye(session) == goodbye(other) == "restart"
        running.ended()
        assert running.server._budget._used == 0


def test_a_handshake_is_told_to_try_again(enclave: Enclave, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go, attest = threading.Event(), threading.Event(), enclave.booted.module.attest

    def slowly(**fields: bytes) -> bytes:
        asked.set()
        assert go.wait(PATIENCE)
        return attest(**fields)

    with ExitStack() as stack:
        shown = stack.enter_context(Session(running)).connection
        silent, waiting = (stack.enter_context(connect(enclave.listen, timeout=PATIENCE)) for _ in range(2))
        monkeypatch.setattr(enclave.booted.module, "attest", slowly)
        write_all(waiting, ClientHandshake().hello())
        assert asked.wait(PATIENCE)
        await_(lambda: len(running.connections) == 3)
        running.drain()
        for connection in (shown, silent, waiting):
            kind, body = read_frame(connection, limit=HANDSHAKE_FRAME_BYTES)
            assert (kind, Notice.from_bytes(body).code) == (FrameType.ALERT, "unavailable")
        go.set()
        for connection in (shown, silent, waiting):
            assert connection.recv(1) == b""
    running.ended()


# The process: signals, and standard input.


@pytest.fixture
def hypervisor_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of the process's standard input."""
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours


def serve_until(enclave: Enclave, stop: Callable[[Session], None]) -> None:
    """Serves as the process does, while `stop` has a session with a request in work; returns when both are done."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            await_(Path(enclave.listen.path).exists)
            with Session(enclave).open() as session:
                enclave.go.clear()
                session.send(request("a text"))
                assert enclave.entered.wait(PATIENCE)
                stop(session)
        except BaseException as error:  # noqa: BLE001
            raised.append(error)
            enclave.go.set()

    client = threading.Thread(target=work)
    nobody = Upstream(Address("unix", path=f"{enclave.listen.path}-host"))
    with Batcher(enclave.booted.encoder) as batcher:
        client.start()
        asyncio.run(program._serve(enclave.booted, batcher, enclave.listen, nobody))
        enclave.go.set()
    client.join(PATIENCE)
    assert raised == []


def terminate(enclave: Enclave) -> None:
    """SIGTERM to this very process, and until it shows."""
    os.kill(os.getpid(), signal.SIGTERM)
    # Not by connecting: a connection that is accepted while the listener closes is CPython's to leak.
    await_(lambda: not Path(enclave.listen.path).exists())


@pytest.mark.usefixtures("hypervisor_end")
def test_a_signal_ends_it_when_all_is_answered(enclave: Enclave) -> None:
    def stop(session: Session) -> None:
        terminate(enclave)
        enclave.go.set()
        assert session.receive()[0] is FrameType.RESPONSE
        assert goodbye(session) == "restart"

    serve_until(enclave, stop)


@pytest.mark.usefixtures("hypervisor_end")
def test_a_second_signal_ends_it_at_once(enclave: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 10 * PATIENCE)

    def stop(session: Session) -> None:
        terminate(enclave)
        os.kill(os.getpid(), signal.SIGTERM)
        # Without another word, though nothing was answered.
        assert session.ended()

    serve_until(enclave, stop)


def test_it_does_not_outlive_its_hypervisor(
    enclave: Enclave, hypervisor_end: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 10 * PATIENCE)

    def stop(session: Session) -> None:
        hypervisor_end.close()
        assert session.ended()

    serve_until(enclave, stop)
