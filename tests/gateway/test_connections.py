"""A connection that asks nothing is given up: no number of them shuts out the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from ephemeralml.gateway import server as module

ASK = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def application(_: Any, __: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def said(*parts: bytes) -> bytes:
    """What a connection answers to `parts` until it hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    connection: Any = module._Connection
    config = uvicorn.Config(application, http=connection, lifespan="off", log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    try:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        answer = b""
        for part in parts:
            writer.write(part)
            if part == ASK:
                answer += await reader.readuntil(b"\r\n\r\n")
        answer += await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("parts", [(), (b"G",), (ASK[:-2],), (ASK, b"G")])
def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]) -> None:
    # Less than an answer takes: one that is being worked on is not hung up on.
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.1)
    assert asyncio.run(said(*parts)).count(b" 204 ") == parts.count(ASK)
