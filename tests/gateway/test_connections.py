"""A connection that asks nothing is given up: no number of them shuts out the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from ephemeralml.gateway import server as module

ASK = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def application(_: Any, __: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[uvicorn.Server, tuple[str, int]]]:
    listener = socket.create_server(("127.0.0.1", 0))
    connection: Any = module._Connection
    config = uvicorn.Config(
        app, http=connection, lifespan="off", log_config=None, timeout_keep_alive=1, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield server, listener.getsockname()
    finally:
        server.should_exit = True
        await task


async def said(*parts: bytes) -> bytes:
    """What a connection answers to `parts` until it hangs up."""
    async with serving(application) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        answer = b""
        for part in parts:
            writer.write(part)
            if part == ASK:
                answer += await reader.readuntil(b"\r\n\r\n")
        answer += await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer


@pytest.mark.parametrize("parts", [(), (b"G",), (ASK[:-2],), (ASK, b"G")])
def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]) -> None:
    # Less than an answer takes: one that is being worked on is not hung up on.
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.1)
    assert asyncio.run(said(*parts)).count(b" 204 ") == parts.count(ASK)


async def long(_: Any, __: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"33554432")]})
    await send({"type": "http.response.body", "body": bytes(1 << 25)})


# One that is told to close, too: all of it is in the server's memory, and closing waits until it is sent.
@pytest.mark.parametrize("asked", [ASK, ASK * 1000, ASK[:-2] + b"Connection: close\r\n\r\n"])
def test_an_answer_that_is_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch, asked: bytes) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1, raising=False)

    async def main() -> None:
        async with serving(long) as (server, address):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(asked)
            await reader.readexactly(1)
            async with asyncio.timeout(20):
                while server.server_state.connections:
                    await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(main())


def test_an_answer_that_is_read_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 5)

    async def main() -> None:
        async with serving(long) as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(2):
                writer.write(ASK)
                await reader.readuntil(b"\r\n\r\n")
                assert not any(await reader.readexactly(1 << 25))
            writer.close()

    asyncio.run(main())


def test_one_connection_more_than_there_may_be_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS", 3)

    async def main() -> None:
        async with serving(application) as (server, address):
            taken = [await asyncio.open_connection(*address) for _ in range(3)]
            while len(server.server_state.connections) < len(taken):
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection(*address)
            with suppress(ConnectionResetError):
                async with asyncio.timeout(20):
                    assert await reader.read() == b""
            assert len(server.server_state.connections) == len(taken)
            for _, one in [*taken, (reader, writer)]:
                one.close()

    asyncio.run(main())
