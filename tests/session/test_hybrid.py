from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import TransportError
from ephemeralml.session import hybrid, transport
from ephemeralml.session.transport import Address, connect, open_stream

Reach = Callable[[Address], bytes]


def _blocking(address: Address) -> bytes:
    with connect(address, timeout=5) as connection, connection.makefile("rb") as stream:
        return stream.read()


def _on_a_loop(address: Address) -> bytes:
    async def read() -> bytes:
        reader, writer = await open_stream(address)
        with closing(writer):
            return await reader.read()

    return asyncio.run(read())


@pytest.fixture(params=[_blocking, _on_a_loop], ids=["blocking", "asyncio"])
def reach(request: pytest.FixtureRequest) -> Reach:
    """Connects and reads to the end."""
    way: Reach = request.param
    return way


@contextmanager
def hypervisor(path: Path, *answer: bytes, asked: list[bytes] | None = None) -> Iterator[Address]:
    """Somebody who takes one CONNECT at `path` and answers it in so many pieces."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            line = stream.readline()
            if asked is not None:
                asked.append(line)
            for piece in answer:
                connection.sendall(piece)
                time.sleep(0.002)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield Address("vsock+unix", path=str(path), port=5000)
        thread.join()


def test_the_port_is_asked_for(tmp_path: Path, reach: Reach) -> None:
    asked: list[bytes] = []
    with hypervisor(tmp_path / "v", b"OK 1073741824\n", asked=asked) as address:
        assert reach(address) == b""
    assert asked == [b"CONNECT 5000\n"]


def test_what_follows_the_answer_at_once_is_the_streams(tmp_path: Path, reach: Reach) -> None:
    with hypervisor(tmp_path / "v", b"OK 1\nOK 2\nfirst words", b" and more") as address:
        assert reach(address) == b"OK 2\nfirst words and more"


def test_an_answer_in_single_bytes(tmp_path: Path, reach: Reach) -> None:
    with hypervisor(tmp_path / "v", *(bytes([byte]) for byte in b"OK 1073741824\nabc")) as address:
        assert reach(address) == b"abc"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "nobody listens on that port"),
        (b"OK 107374", "nobody listens on that port"),
        (b"OK " + b"1" * 1000, "more than 64 bytes"),
        (b"x" * 1000, "more than 64 bytes"),
        (b"OK\n", "not that of a hybrid vsock"),
        (b"OK 1 \n", "not that of a hybrid vsock"),
        (b"OK 1\r\n", "not that of a hybrid vsock"),
        (b"OK -1\n", "not that of a hybrid vsock"),
        (b"OK 11111111111\n", "not that of a hybrid vsock"),
        (b"ERR 1\n", "not that of a hybrid vsock"),
        (b"\n", "not that of a hybrid vsock"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not that of a hybrid vsock"),
    ],
)
def test_another_answer_is_no_connection(tmp_path: Path, reach: Reach, answer: bytes, why: str) -> None:
    with hypervisor(tmp_path / "v", answer) as address, pytest.raises(TransportError, match=why) as caught:
        reach(address)
    assert caught.value.code == "transport.unreachable"


def test_a_line_of_64_bytes_is_read_and_none_longer() -> None:
    line = hybrid.Line()
    assert [line.take(b"x") for _ in range(63)] == [False] * 63
    assert line.take(b"\n")
    line = hybrid.Line()
    with pytest.raises(ConnectionError):
        [line.take(b"x") for _ in range(64)]


def test_an_answer_that_never_comes_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_DIAL_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "v"))
        listener.listen()
        address = Address("vsock+unix", path=str(tmp_path / "v"), port=5000)
        for attempt in (lambda: connect(address, timeout=0.2), lambda: _on_a_loop(address)):
            with pytest.raises(TransportError, match="timed out") as caught:
                attempt()
            assert caught.value.code == "transport.unreachable"


def test_single_bytes_do_not_put_the_deadline_off(tmp_path: Path) -> None:
    """Each byte comes in time, all of them would not."""
    address = Address("vsock+unix", path=str(tmp_path / "v"), port=5000)
    done = threading.Event()

    def drip() -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            for byte in b"OK " + b"1" * 50:
                if done.wait(0.1):
                    return
                connection.sendall(bytes([byte]))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "v"))
        listener.listen()
        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(TransportError, match="timed out"):
            connect(address, timeout=0.5)
        done.set()
        thread.join()


@given(port=st.integers(0, 2**32 - 1), stream=st.binary(max_size=200))
def test_no_byte_of_the_stream_is_swallowed(port: int, stream: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b"OK %d\n" % port + stream)
            hybrid.call(ours, 5000, deadline=time.monotonic() + 5)
            assert theirs.recv(100) == b"CONNECT 5000\n"
        with ours.makefile("rb") as rest:
            assert rest.read() == stream


@given(st.binary(max_size=100) | st.binary(max_size=20).map(lambda rest: b"OK 1" + rest))
def test_any_answer_is_acceptance_or_refused(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    accepted = re.match(rb"OK [0-9]{1,10}\n", answer)
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        if accepted:
            hybrid.call(ours, 1, deadline=time.monotonic() + 5)
            with ours.makefile("rb") as rest:
                assert rest.read() == answer[accepted.end() :]
        else:
            with pytest.raises(ConnectionError):
                hybrid.call(ours, 1, deadline=time.monotonic() + 5)


@given(st.integers(0, 2**32 - 2))
def test_a_call_names_its_port(port: int) -> None:
    line = hybrid.Line()
    assert [line.take(bytes([byte])) for byte in b"CONNECT %d\n" % port][-1]
    assert line.called() == port


@pytest.mark.parametrize(
    "text", [b"CONNECT\n", b"CONNECT 4294967295\n", b"CONNECT 1 2\n", b"connect  1\n", b"GET / HTTP/1.1\n"]
)
def test_another_request_is_no_call(text: bytes) -> None:
    line = hybrid.Line()
    assert [line.take(bytes([byte])) for byte in text][-1]
    with pytest.raises(ConnectionError):
        line.called()
