from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeralml.errors import ConfigurationError, TransportError
from ephemeralml.session.transport import Address, connect, listen, open_stream


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7001", Address("tcp", host="127.0.0.1", port=7001)),
        ("tcp://127.0.0.1:7001/", Address("tcp", host="127.0.0.1", port=7001)),
        ("tcp://example.com:0", Address("tcp", host="example.com", port=0)),
        ("tcp://[::1]:80", Address("tcp", host="::1", port=80)),
        ("unix:///run/e.sock", Address("unix", path="/run/e.sock")),
        ("unix:///run/a b?c#d%20.sock", Address("unix", path="/run/a b?c#d%20.sock")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp", "tcp://", "tcp://host", "tcp://host:", "tcp://:80", "tcp://host:65536", "tcp://host:-1"),
        *("tcp://host:x", "tcp://host:80/path", "tcp://host:80?q", "tcp://host:80#f", "tcp://user@host:80"),
        *("tcp://[::1:80", "http://host:80", "127.0.0.1:80", "unix://relative", "unix://host/path", "unix:/path"),
        *("unix:///" + "x" * 107, "unix:///a\0b", "tcp://a\0b:80", "vsock://3:5000"),
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(text)
    assert caught.value.code == "address.malformed"


@given(st.text() | st.text().map("tcp://{}:1".format) | st.text().map("unix:///{}".format))
@example("tcp://..:1")
@example(f"tcp://{'x' * 64}.y:1")
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        address = Address.parse(text)
        assert Address.parse(str(address)) == address


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    await writer.drain()
    writer.close()


@contextmanager
def listening(address: Address) -> Iterator[Address]:
    """An echo server in a thread."""
    loop, box, up = asyncio.new_event_loop(), [], threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        server, bound = await listen(address, _echo)
        box.append(bound)
        up.set()
        with closing(server):
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.Runner(loop_factory=lambda: loop).run(serve()))
    thread.start()
    assert up.wait(5)
    try:
        yield box[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return Address.parse("tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/s")


def test_blocking_connection(address: Address) -> None:
    with listening(address) as bound, connect(bound, timeout=5) as connection:
        assert bound.scheme == "unix" or bound.port
        assert connection.gettimeout() == 5
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"


def test_asyncio_connection(address: Address) -> None:
    async def ask(bound: Address) -> bytes:
        reader, writer = await open_stream(bound)
        writer.write(b"hello")
        answer = await reader.read(100)
        writer.close()
        await writer.wait_closed()
        return answer

    with listening(address) as bound:
        assert asyncio.run(ask(bound)) == b"hello"


def test_an_address_in_use_is_refused_and_goes_on_working(address: Address) -> None:
    with listening(address) as bound:
        with pytest.raises(ConfigurationError) as caught:
            asyncio.run(listen(bound, _echo))
        assert caught.value.code == "address.in_use"
        with connect(bound, timeout=5) as connection:
            connection.sendall(b"still here")
            assert connection.recv(100) == b"still here"


def test_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for text in (f"tcp://127.0.0.1:{port}", f"unix://{tmp_path}/nobody", f"unix://{tmp_path}", f"tcp://{'x' * 64}:1"):
        address = Address.parse(text)
        with pytest.raises(TransportError) as caught:
            connect(address, timeout=5)
        assert caught.value.code == "transport.unreachable"
        with pytest.raises(TransportError) as caught:
            asyncio.run(open_stream(address))
        assert caught.value.code == "transport.unreachable"


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    with listening(Address.parse(f"unix://{path}")) as bound, connect(bound, timeout=5) as connection:
        connection.sendall(b"new")
        assert connection.recv(100) == b"new"


def test_a_busy_listener_keeps_its_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConfigurationError) as caught:
            asyncio.run(listen(Address.parse(f"unix://{path}"), _echo))
        assert caught.value.code == "address.in_use"
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(listen(Address.parse(f"unix://{path}"), _echo))
    assert caught.value.code == "address.in_use"
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        asyncio.run(listen(Address.parse(f"unix://{tmp_path}/none/s"), _echo))


def test_a_socket_file_is_its_owners_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with listening(Address.parse(f"unix://{tmp_path}/s")) as bound:
            assert stat.S_IMODE(Path(bound.path).stat().st_mode) == 0o600
    finally:
        os.umask(before)
