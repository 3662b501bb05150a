from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from ephemeralml.errors import TransportError
from ephemeralml.host import relay as module
from ephemeralml.host.relay import Relay, Relayed
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.messages import Notice
from ephemeralml.session.transport import Address, Handler, listen, open_stream, serve

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Host:
    """A relay in front of `enclave`, and what it counted."""

    def __init__(self, address: Address, relay: Relay, closed: list[Relayed]) -> None:
        self.address = address
        self.relay = relay
        self.closed = closed

    async def dial(self) -> Stream:
        return await open_stream(self.address)

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.closed) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def relaying(folder: Path, enclave: Handler | None) -> AsyncIterator[Host]:
    inner = Address("unix", path=f"{folder}/enclave")
    closed: list[Relayed] = []
    relay = Relay(inner, on_closed=closed.append)
    server, bound = await serve(Address.parse("tcp://127.0.0.1:0"), relay.connection)
    with closing(server):
        if enclave is None:
            yield Host(bound, relay, closed)
        else:
            behind, _ = await listen(inner, enclave)
            with closing(behind):
                yield Host(bound, relay, closed)
    await relay.close()


def run(folder: Path, enclave: Handler | None, test: Callable[[Host], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10), relaying(folder, enclave) as host:
            await test(host)
            # What still hangs up may finish: a loop that ends under a transport leaves its socket open.
            if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(handlers, timeout=5)

    asyncio.run(main())


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def notice(reader: asyncio.StreamReader) -> Notice:
    frame = await reader.read()
    assert frame[4] == FrameType.ALERT
    return Notice.from_bytes(frame[HEADER.size :])


def test_bytes_pass_both_ways_and_are_counted(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096

    async def test(host: Host) -> None:
        reader, writer = await host.dial()
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.write_eof()
        assert await reader.read() == b""
        await hang_up(writer)
        await host.settled(1)
        assert host.closed == [Relayed(to_enclave=len(data), to_client=len(data))]

    run(tmp_path, echo, test)


def test_a_client_that_has_finished_sending_still_gets_its_answer(tmp_path: Path) -> None:
    async def enclave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(b"answer to " + asked)
        await hang_up(writer)

    async def test(host: Host) -> None:
        reader, writer = await host.dial()
        writer.write(b"this")
        writer.write_eof()
        assert await reader.read() == b"answer to this"
        await hang_up(writer)

    run(tmp_path, enclave, test)


def test_no_enclave_is_said_so(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        reader, writer = await host.dial()
        assert (await notice(reader)).code == "unavailable"
        await hang_up(writer)

    run(tmp_path, None, test)


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS"])
def test_connections_are_limited_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(module, limit, 2)

    async def test(host: Host) -> None:
        streams = [await host.dial() for _ in range(2)]
        for reader, writer in streams:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        reader, writer = await host.dial()
        assert (await notice(reader)).code == "busy"
        await hang_up(writer)
        await hang_up(streams[0][1])
        await host.settled(1)
        reader, writer = await host.dial()
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        await hang_up(writer)
        await hang_up(streams[1][1])

    run(tmp_path, echo, test)


def test_a_silent_client_does_not_keep_its_place_after_the_enclave_hung_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.1)

    async def enclave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        await hang_up(writer)

    async def test(host: Host) -> None:
        reader, writer = await host.dial()
        await host.settled(1)
        assert await reader.read() == b"last words"
        assert host.closed[0].to_client == 10
        await hang_up(writer)

    run(tmp_path, enclave, test)


def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STALLED_SECONDS", 0.2)
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.1)
    gone = asyncio.Event()

    async def enclave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        gone.set()
        await hang_up(writer)

    async def test(host: Host) -> None:
        _, writer = await host.dial()
        await gone.wait()
        await host.settled(1)
        writer.transport.abort()

    run(tmp_path, enclave, test)


@pytest.mark.parametrize("who", ["client", "enclave"])
def test_a_reset_on_one_side_ends_the_other(tmp_path: Path, who: str) -> None:
    ended = asyncio.Event()

    async def enclave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        if who == "enclave":
            writer.transport.abort()
            return
        with suppress(OSError):
            await reader.read()
        ended.set()
        await hang_up(writer)

    async def test(host: Host) -> None:
        reader, writer = await host.dial()
        writer.write(b"x")
        if who == "client":
            await asyncio.sleep(0.05)
            writer.transport.abort()
            await ended.wait()
        else:
            with suppress(OSError):
                assert await reader.read() == b""
            await hang_up(writer)
        await host.settled(1)

    run(tmp_path, enclave, test)


def test_nothing_listens_after_the_relay_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, echo) as host:
            address = host.address
        with pytest.raises(TransportError):
            await open_stream(address)

    asyncio.run(main())
