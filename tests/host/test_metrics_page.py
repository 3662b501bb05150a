"""The page of metrics: what it answers, and what those who abuse it can take from the relay beside it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ephemeralml.host import metrics_page as module
from ephemeralml.host.metrics_page import MAX_CONNECTIONS, MetricsPage
from ephemeralml.host.relay import Relay
from ephemeralml.session.transport import Address, listen, open_stream, serve

PATIENCE = 60
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"


class Pages:
    """A page of `size` bytes, how often it was written, and where it is served."""

    def __init__(self, size: int) -> None:
        self.written = 0
        self.size = size
        self.page = MetricsPage(self._write)
        self.address = Address("tcp", host="127.0.0.1")

    def _write(self) -> str:
        self.written += 1
        return "a" * self.size

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await open_stream(self.address)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


@asynccontextmanager
async def pages(size: int = 5) -> AsyncIterator[Pages]:
    made = Pages(size)
    server, made.address = await listen(made.address, made.page.connected)
    with closing(server):
        yield made


def run(test: Callable[[Pages], Awaitable[None]], size: int = 5) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE), pages(size) as made:
            await test(made)
            if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(handlers, timeout=PATIENCE)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET, b"200 OK"),
        (b"GET /metrics HTTP/1.0\n\n", b"200 OK"),
        (b"GET /metrics?name=a HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9464\r\n\r\n", b"200 OK"),
        (b"GET /metrics HTTP/1.1\r\nHost: [::1]:9464\r\n\r\n", b"200 OK"),
        # A web page's own name, which it has resolve to this machine.
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example:9464\r\n\r\n", b"421 Misdirected Request"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nhost : evil.example\r\n\r\n", b"421 Misdirected Request"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", b"421 Misdirected Request"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400 Bad Request"),
        (b"\r\n", b"400 Bad Request"),
    ],
)
def test_one_path_is_answered(request_: bytes, status: bytes) -> None:
    async def test(made: Pages) -> None:
        answer = await made.ask(request_)
        assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        assert (b"text/plain; version=0.0.4" in head) == (body == b"aaaaa") == (status == b"200 OK")

    run(test)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /metrics" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\na: " + b"b" * 10_000 + b"\r\n\r\n",
    ],
)
def test_a_head_without_an_end_is_not_answered(request_: bytes) -> None:
    async def test(made: Pages) -> None:
        assert await made.ask(request_) == b""
        assert made.written == 0

    run(test)


def test_however_often_it_is_asked_it_is_written_now_and_then() -> None:
    async def test(made: Pages) -> None:
        for _ in range(50):
            assert (await made.ask(GET)).endswith(b"aaaaa")
        assert made.written < 50

    run(test)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    async def test(made: Pages) -> None:
        answer = await made.ask(data + b"\r\n\r\n")
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        assert (await made.ask(GET)).endswith(b"aaaaa")

    run(test)


def test_those_who_read_nothing_and_those_who_say_nothing_leave_the_relay_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 1)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(4096):
                writer.write(chunk)
        writer.close()

    async def test(made: Pages) -> None:
        inner = Address("unix", path=f"{tmp_path}/enclave")
        relay = Relay(inner, on_closed=lambda _: None)
        enclave, _ = await listen(inner, echo)
        server, at = await serve(Address.parse("tcp://127.0.0.1:0"), relay.connection)
        hostile = []
        with closing(enclave), closing(server):
            for number in range(3 * MAX_CONNECTIONS):
                # A receive buffer that the page does not fit.
                one = socket.socket()
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.setblocking(False)
                await asyncio.get_running_loop().sock_connect(one, (made.address.host, made.address.port))
                if number % 2:
                    await asyncio.get_running_loop().sock_sendall(one, GET)
                hostile.append(one)
            reader, writer = await open_stream(at)
            for turn in range(100):
                writer.write(b"%3d" % turn)
                assert await reader.readexactly(3) == b"%3d" % turn
            assert made.page._connections <= MAX_CONNECTIONS
            writer.close()
            # And they are rid of within their time: the next who asks is answered.
            while not (await made.ask(GET)).endswith(b"a"):
                await asyncio.sleep(0.05)
            for one in hostile:
                one.close()
            await relay.close()

    run(test, size=8 << 20)
