from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interrupted
import pytest

from ephemeralml.devcloud.vsock import HybridVsock
from ephemeralml.errors import ConfigurationError, TransportError
from ephemeralml.session import sockets, transport
from ephemeralml.session.address import CID_ANY, PORT_ANY
from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.limits import RECORD_FRAME_BYTES
from ephemeralml.session.transport import Address, Handler, connect, listen, open_stream

LARGE = bytes(range(256)) * (RECORD_FRAME_BYTES // 256)
# VMADDR_CID_LOCAL (vsock(7)), which is bound only where the loopback transport is there.
CID_LOCAL = 1
UNASSIGNED = Address("vsock", cid=2**32 - 2, port=1)


def _binds(cid: int) -> bool:
    try:
        with socket.socket(socket.AF_VSOCK) as probe:
            probe.bind((cid, PORT_ANY))
    except OSError:
        return False
    return True


needs_vsock = pytest.mark.skipif(not _binds(CID_ANY), reason="no vsock in this kernel (CONFIG_VSOCKETS)")
NO_LOOPBACK = "" if _binds(CID_LOCAL) else "no vsock loopback in this kernel (CONFIG_VSOCKETS_LOOPBACK)"


@asynccontextmanager
async def hanging_up(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    await writer.drain()


@contextmanager
def listening(address: Address, handler: Handler = _echo) -> Iterator[Address]:
    """A server in a thread."""
    loop, box, up = asyncio.new_event_loop(), [], threading.Event()
    stop = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with hanging_up(writer):
            await handler(reader, writer)

    async def serve() -> None:
        server, bound = await listen(address, handle)
        box.append(bound)
        up.set()
        with closing(server):
            await stop.wait()
        # A loop that ends under a transport leaves its socket open.
        if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(handlers, timeout=5)

    thread = threading.Thread(target=lambda: asyncio.Runner(loop_factory=lambda: loop).run(serve()))
    thread.start()
    assert up.wait(5)
    try:
        yield box[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@dataclass
class Link:
    """Where one side listens, and what the other calls, given what was bound."""

    at: Address
    called: Callable[[Address], Address] = lambda bound: bound

    @contextmanager
    def serving(self, handler: Handler = _echo) -> Iterator[Address]:
        with listening(self.at, handler) as bound:
            yield self.called(bound)


@pytest.fixture(params=["tcp", "unix", "hybrid", "vsock"])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Link]:
    match request.param:
        case "tcp":
            yield Link(Address.parse("tcp://127.0.0.1:0"))
        case "unix":
            yield Link(Address.parse(f"unix://{tmp_path}/s"))
        case "hybrid":
            with HybridVsock(host=tmp_path / "h", guest=tmp_path / "g"):
                called = Address.parse(f"vsock+unix://{tmp_path}/h:5000")
                yield Link(Address.parse(f"vsock+unix://{tmp_path}/g:5000"), lambda _: called)
        case "vsock":
            if NO_LOOPBACK:
                pytest.skip(NO_LOOPBACK)
            yield Link(
                Address.parse(f"vsock://{CID_LOCAL}:0"),
                lambda bound: Address("vsock", cid=CID_LOCAL, port=bound.port),
            )


def test_blocking_connection(link: Link) -> None:
    with link.serving() as address, connect(address, timeout=5) as connection:
        assert address.scheme == "unix" or address.port
        assert connection.gettimeout() == 5
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"


def test_asyncio_connection(link: Link) -> None:
    async def ask(address: Address) -> bytes:
        reader, writer = await open_stream(address)
        async with hanging_up(writer):
            writer.write(b"hello")
            return await reader.read(100)

    with link.serving() as address:
        assert asyncio.run(ask(address)) == b"hello"


def test_an_address_in_use_is_refused_and_goes_on_working(link: Link) -> None:
    with listening(link.at) as bound:
        with pytest.raises(ConfigurationError) as caught:
            asyncio.run(listen(bound, _echo))
        assert caught.value.code == "address.in_use"
        with connect(link.called(bound), timeout=5) as connection:
            connection.sendall(b"still here")
            assert connection.recv(100) == b"still here"


async def _answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"answer to " + await reader.read())


def test_who_has_finished_sending_still_receives(link: Link) -> None:
    async def ask(address: Address) -> bytes:
        reader, writer = await open_stream(address)
        async with hanging_up(writer):
            writer.write(b"that")
            writer.write_eof()
            return await reader.read()

    with link.serving(_answer_after_the_end) as address:
        with connect(address, timeout=5) as connection, connection.makefile("rb") as stream:
            connection.sendall(b"this")
            connection.shutdown(socket.SHUT_WR)
            assert stream.read() == b"answer to this"
        assert asyncio.run(ask(address)) == b"answer to that"


def test_who_is_sent_no_more_may_still_send(link: Link) -> None:
    heard: list[bytes] = []

    async def finish_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that is all")
        writer.write_eof()
        heard.append(await reader.read())

    with link.serving(finish_first) as address, connect(address, timeout=5) as connection:
        with connection.makefile("rb") as stream:
            assert stream.read() == b"that is all"
        for _ in range(10):
            connection.sendall(b"more")
        connection.shutdown(socket.SHUT_WR)
        # The server closes once it has read everything.
        while not heard:
            assert connection.recv(1) == b""
    assert heard == [b"more" * 10]


def _exchanging(piece: int, received: list[bytes]) -> Handler:
    """Sends LARGE while it receives as much."""

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send() -> None:
            for start in range(0, len(LARGE), piece):
                writer.write(LARGE[start : start + piece])
                await writer.drain()

        _, came = await asyncio.gather(send(), reader.readexactly(len(LARGE)))
        received.append(came)

    return exchange


@pytest.mark.parametrize("piece", [32 * 1024, 128 * 1024])
def test_large_messages_both_ways_at_once(link: Link, piece: int) -> None:
    received: list[bytes] = []
    with link.serving(_exchanging(piece, received)) as address:
        with connect(address, timeout=20) as connection:
            sending = threading.Thread(target=write_all, args=(connection, LARGE))
            sending.start()
            assert read_exactly(connection, len(LARGE)) == LARGE
            sending.join()
            assert connection.recv(1) == b""

        async def exchange() -> None:
            reader, writer = await open_stream(address)
            mine: list[bytes] = []
            async with hanging_up(writer):
                await _exchanging(piece, mine)(reader, writer)
            assert mine == [LARGE]

        asyncio.run(exchange())
    assert received == [LARGE, LARGE]


def test_signals_interrupt_nothing(link: Link) -> None:
    received: list[bytes] = []
    with link.serving(_exchanging(64 * 1024, received)) as address:
        command = [sys.executable, interrupted.__file__, str(address)]
        done = subprocess.run(command, input=LARGE, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == LARGE
    assert received == [LARGE]


def test_a_silent_peer_is_not_waited_for(link: Link) -> None:
    done = threading.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not read from, so that what is sent backs up.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.to_thread(done.wait)
        writer.transport.abort()

    with link.serving(silent) as address:
        try:
            with connect(address, timeout=0.2) as connection:
                with pytest.raises(TransportError) as caught:
                    read_exactly(connection, 1)
                assert caught.value.code == "transport.timeout"
                with pytest.raises(TransportError) as caught:
                    write_all(connection, LARGE)
                assert caught.value.code == "transport.timeout"
        finally:
            done.set()


def test_nobody_listens(link: Link) -> None:
    with link.serving() as address:
        pass
    for attempt in (lambda: connect(address, timeout=5), lambda: asyncio.run(open_stream(address))):
        with pytest.raises(TransportError) as caught:
            attempt()
        assert caught.value.code == "transport.unreachable"
        assert str(address) in str(caught.value)


def test_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_DIAL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    addresses = [f"tcp://127.0.0.1:{port}", f"unix://{tmp_path}/nobody", f"unix://{tmp_path}", f"tcp://{'x' * 64}:1"]
    # No kernel has anybody there: it says so, or nothing at all.
    for text in (*addresses, f"vsock+unix://{tmp_path}/nobody:1", str(UNASSIGNED)):
        address = Address.parse(text)
        with pytest.raises(TransportError) as caught:
            connect(address, timeout=0.2)
        assert caught.value.code == "transport.unreachable"
        with pytest.raises(TransportError) as caught:
            asyncio.run(open_stream(address))
        assert caught.value.code == "transport.unreachable"


@needs_vsock
def test_a_silent_vsock_peer_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_DIAL_SECONDS", 0.3)
    turns = 0

    async def main() -> None:
        nonlocal turns
        dialling = asyncio.create_task(open_stream(UNASSIGNED))
        while not dialling.done():
            turns += 1
            await asyncio.sleep(0.001)
        with pytest.raises(TransportError):
            await dialling

    asyncio.run(main())
    assert turns > 1


@needs_vsock
def test_a_vsock_port_is_bound_and_taken() -> None:
    """Real sockets of this kernel: nobody has to be able to call them."""

    async def main() -> None:
        server, bound = await listen(Address.parse("vsock://any:0"), _echo)
        with closing(server):
            assert bound.cid == CID_ANY
            assert 0 < bound.port < PORT_ANY
            assert Address.parse(str(bound)) == bound
            with pytest.raises(ConfigurationError) as caught:
                await listen(bound, _echo)
            assert caught.value.code == "address.in_use"
        # Given back.
        again, _ = await listen(bound, _echo)
        again.close()

    asyncio.run(main())


class _Vsock(socket.socket):
    """A vsock of a kernel that has loopback: a Unix socket that goes by CID and port."""

    folder: Path
    seen: list[tuple[str, Any]]

    def __init__(self, family: int) -> None:
        assert family == socket.AF_VSOCK
        super().__init__(socket.AF_UNIX)

    def bind(self, at: Any) -> None:
        self.seen.append(("bind", at))
        super().bind(str(self.folder / str(at[1])))

    def connect(self, at: Any) -> None:
        self.seen.append(("connect", at))
        super().connect(str(self.folder / str(at[1])))

    def getsockname(self) -> tuple[int, int]:
        name = Path(super().getsockname()).name
        return CID_ANY, int(name or 0)


class _Kernel:
    """What the module for sockets needs of Python's."""

    AF_VSOCK = socket.AF_VSOCK
    socket = _Vsock


@pytest.mark.skipif(not NO_LOOPBACK, reason="this kernel's own loopback is tested instead")
def test_cid_and_port_reach_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "socket", _Kernel)
    monkeypatch.setattr(_Vsock, "folder", tmp_path, raising=False)
    monkeypatch.setattr(_Vsock, "seen", [], raising=False)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with hanging_up(writer):
            await _echo(reader, writer)

    def ask(address: Address) -> bytes:
        with connect(address, timeout=5) as connection:
            connection.sendall(b"hello")
            return connection.recv(100)

    async def main() -> None:
        for text in ("vsock://any:5000", "vsock://3:0"):
            server, bound = await listen(Address.parse(text), handle)
            with closing(server):
                called = Address("vsock", cid=16, port=bound.port)
                reader, writer = await open_stream(called)
                async with hanging_up(writer):
                    writer.write(b"hello")
                    assert await reader.read(100) == b"hello"
                assert await asyncio.to_thread(ask, called) == b"hello"
            if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(handlers, timeout=5)

    asyncio.run(main())
    assert _Vsock.seen == [
        *(("bind", (CID_ANY, 5000)), ("connect", (16, 5000)), ("connect", (16, 5000))),
        *(("bind", (3, PORT_ANY)), ("connect", (16, PORT_ANY)), ("connect", (16, PORT_ANY))),
    ]


@pytest.fixture(params=["unix", "hybrid"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """An address that is a socket file while somebody listens."""
    return Address.parse(f"unix://{tmp_path}/s" if request.param == "unix" else f"vsock+unix://{tmp_path}/s:5000")


def _reached(file: Address) -> Address:
    return Address("unix", path=file.listening_path)


def test_a_stale_socket_file_is_replaced(file: Address) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(file.listening_path)
    assert Path(file.listening_path).is_socket()
    with listening(file), connect(_reached(file), timeout=5) as connection:
        connection.sendall(b"new")
        assert connection.recv(100) == b"new"


def test_a_socket_file_goes_with_its_listener(file: Address) -> None:
    with listening(file):
        assert Path(file.listening_path).is_socket()
    assert not Path(file.listening_path).exists()


def test_a_successors_socket_file_stays(file: Address) -> None:
    async def main() -> None:
        first, _ = await listen(file, _echo)
        Path(file.listening_path).rename(f"{file.path}.old")
        second, _ = await listen(file, _echo)
        first.close()
        assert Path(file.listening_path).is_socket()
        Path(file.listening_path).unlink()
        # What is gone already is no error.
        second.close()

    asyncio.run(main())


def test_a_busy_listener_keeps_its_socket_file(file: Address) -> None:
    path = file.listening_path
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(ConfigurationError) as caught:
            asyncio.run(listen(file, _echo))
        assert caught.value.code == "address.in_use"
        assert Path(path).is_socket()


def test_a_file_that_is_no_socket_is_left_alone(file: Address) -> None:
    path = Path(file.listening_path)
    path.write_text("precious")
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(listen(file, _echo))
    assert caught.value.code == "address.in_use"
    assert path.read_text() == "precious"


def test_an_address_that_this_machine_does_not_have(tmp_path: Path) -> None:
    # The last is of no machine (RFC 5737).
    for text in (f"unix://{tmp_path}/none/s", f"vsock+unix://{tmp_path}/none/s:1", "tcp://192.0.2.1:0"):
        with pytest.raises(ConfigurationError, match=r"an address that this machine has") as caught:
            asyncio.run(listen(Address.parse(text), _echo))
        assert caught.value.code == "address.unavailable"


# By itself: the user is the whole process's, and root may listen anywhere.
_LISTEN = """
import asyncio, os, sys
from ephemeralml.errors import ConfigurationError
from ephemeralml.session.transport import Address, listen

async def nobody(*_):
    pass

os.seteuid(os.geteuid() or 65534)
try:
    asyncio.run(listen(Address.parse(sys.argv[1]), nobody))
except ConfigurationError as error:
    print(error.code, error)
"""


def test_an_address_where_this_user_may_not_listen(file: Address, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    command = [sys.executable, "-c", _LISTEN, str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    tmp_path.chmod(0o700)
    assert said.startswith("address.denied ")
    assert "Permission denied; allow this user" in said


def test_a_socket_file_is_its_owners_only(file: Address) -> None:
    before = os.umask(0)
    try:
        with listening(file):
            assert stat.S_IMODE(Path(file.listening_path).stat().st_mode) == 0o600
    finally:
        os.umask(before)
