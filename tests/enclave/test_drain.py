"""An enclave that is told to stop answers what it has in work, says that it is going, and is gone, whoever resists."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import gated
import pytest
from frames import read_frame
from gated import Gate, GatedEnclave, await_, policy
from sealed import PATIENCE, Session, request

from ephemeralml.attestation import Policy
from ephemeralml.enclave import connection as module
from ephemeralml.enclave.server import Server
from ephemeralml.enclave.tally import Tally
from ephemeralml.errors import TransportError
from ephemeralml.inference import Batcher
from ephemeralml.session.blocking import write_all
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.handshake import ClientHandshake
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES
from ephemeralml.session.messages import Notice, Response
from ephemeralml.session.transport import Address, connect


class Running:
    """An enclave that serves, in a thread."""

    def __init__(self, enclave: GatedEnclave, batcher: Batcher) -> None:
        self.address = str(enclave.listen)
        self.policy = policy(Path(enclave.listen.path).parent)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(enclave, batcher)))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    async def _serve(self, enclave: GatedEnclave, batcher: Batcher) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = Server(enclave.booted, batcher=batcher, tally=Tally(), on_refusing=lambda _: None)

        async def ready(_: Address) -> None:
            self._ready.set()

        await self.server.serve(enclave.listen, ready=ready)

    @property
    def connections(self) -> list[module.Connection]:
        return list(self.server._connections)

    def in_work(self, count: int) -> None:
        """Waits until so many requests are."""
        await_(lambda: sum(one._requests.in_work for one in self.connections if one._requests is not None) == count)

    def drain(self) -> None:
        """Tells it to stop, and waits until every session was told."""
        self.loop.call_soon_threadsafe(self.server.drain)
        await_(lambda: all(one.ending or one._draining for one in self.connections))

    def ended(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it serves on"


@pytest.fixture
def enclave(tmp_path: Path, tiny_model: Path) -> Iterator[GatedEnclave]:
    made = GatedEnclave(tmp_path, tiny_model)
    yield made
    made.close()


@pytest.fixture
def running(enclave: GatedEnclave) -> Iterator[Running]:
    with Batcher(enclave.booted.encoder) as batcher:
        made = Running(enclave, batcher)
        yield made
        enclave.gate.open()
        if not made.loop.is_closed():
            made.loop.call_soon_threadsafe(made.server.drain)
        made.ended()


def goodbye(session: Session) -> str:
    """The code of the CLOSE that is the next and last word."""
    kind, plaintext = session.receive()
    assert kind is FrameType.CLOSE
    assert session.ended()
    return Notice.from_bytes(plaintext).code


def test_requests_in_work_are_answered_and_no_others(enclave: GatedEnclave, running: Running) -> None:
    with Session(running).open() as session:
        enclave.gate.shut()
        for number in range(3):
            session.send(request("a text", number=number))
        running.in_work(3)
        running.drain()
        session.send(request("too late", number=3))
        enclave.gate.open()
        answered = set()
        for _ in range(3):
            kind, plaintext = session.receive()
            assert kind is FrameType.RESPONSE
            answered.add(Response.from_bytes(plaintext).id)
        assert answered == {0, 1, 2}
        assert goodbye(session) == "restart"
    running.ended()
    assert enclave.embedded == 3


def test_nobody_can_connect_meanwhile(enclave: GatedEnclave, running: Running) -> None:
    with Session(running).open() as session:
        enclave.gate.shut()
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
        enclave.gate.open()
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
    enclave: GatedEnclave, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)
    with Session(running).open() as session:
        enclave.gate.shut()
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
            await_(lambda: running.server._budget._used >= sent - HEADER.size)
        running.drain()
        write_all(session.connection, frame[sent:])
        assert goodbye(session) == goodbye(other) == "restart"
        running.ended()
        assert running.server._budget._used == 0


def test_a_handshake_is_told_to_try_again(
    enclave: GatedEnclave, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@dataclass
class Program:
    """One with a process of its own, and a client's view of it."""

    process: subprocess.Popen[bytes]
    gate: Gate
    policy: Policy
    address: str

    def terminate(self) -> None:
        """SIGTERM, and until it shows."""
        self.process.send_signal(signal.SIGTERM)
        await_(lambda: not self._listens())

    def _listens(self) -> bool:
        try:
            connect(Address.parse(self.address), timeout=PATIENCE).close()
        except TransportError:
            return False
        return True


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[[int], Program]]:
    """Starts one that drains for so many seconds."""
    with ExitStack() as stack:

        def make(drain_seconds: int) -> Program:
            command = [sys.executable, gated.__file__, str(tmp_path), str(tiny_model), str(drain_seconds)]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
            stack.callback(process.kill)
            await_(lambda: (tmp_path / "enclave").exists() or process.poll() is not None)
            return Program(process, Gate(tmp_path), policy(tmp_path), f"unix://{tmp_path}/enclave")

        yield make


@contextmanager
def in_work(program: Program) -> Iterator[Session]:
    """A session with a request that the engine holds."""
    with Session(program).open() as session:
        program.gate.shut()
        session.send(request("a text"))
        program.gate.await_engine()
        yield session


def test_a_signal_ends_it_when_all_is_answered(start: Callable[[int], Program]) -> None:
    program = start(PATIENCE)
    with in_work(program) as session:
        program.terminate()
        program.gate.open()
        assert session.receive()[0] is FrameType.RESPONSE
        assert goodbye(session) == "restart"
    assert program.process.wait(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once(start: Callable[[int], Program]) -> None:
    program = start(10 * PATIENCE)
    with in_work(program) as session:
        program.terminate()
        program.process.send_signal(signal.SIGTERM)
        # Without another word, though nothing was answered.
        assert session.ended()
        program.gate.open()
    assert program.process.wait(PATIENCE) == 0


def test_it_does_not_outlive_its_hypervisor(start: Callable[[int], Program]) -> None:
    program = start(10 * PATIENCE)
    with in_work(program) as session:
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert session.ended()
        program.gate.open()
    assert program.process.wait(PATIENCE) == 0
