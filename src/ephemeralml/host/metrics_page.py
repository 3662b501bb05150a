"""The page at which Prometheus finds a host's metrics: one path of HTTP/1.1, one answer a connection.

It shares the relay's event loop, so whoever asks can take little of it: a few connections at once, a few seconds each,
and a page that is written once a second at most.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from ephemeralml.exposition import CONTENT_TYPE

PATH: Final = "/metrics"
MAX_CONNECTIONS: Final = 16

_SECONDS: Final = 5
_LINE_BYTES: Final = 1024
_HEAD_BYTES: Final = 8192
_FRESH_SECONDS: Final = 1
_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,512}) HTTP/1\.[01]\r?\n")
# Numbers are nobody's to resolve.
_LOCAL_NAME: Final = re.compile(rb"(localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]+)?", re.IGNORECASE)
_PLAIN: Final = "text/plain; charset=utf-8"


class MetricsPage:
    """`connected` serves a stream; `write` gives the page.

    Where it listens on loopback it goes by no name but localhost: a web page in a browser on this machine can have a
    name of its own resolve to 127.0.0.1, and would be let read it.
    """

    def __init__(self, write: Callable[[], str]) -> None:
        self._write = write
        self._page = b""
        self._written: float | None = None
        self._connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, whoever asks."""
        if self._connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_SECONDS):
                    writer.write(self._answer(*await _head(reader), local=_is_loopback(writer)))
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._connections -= 1
            # One that does not read keeps nothing here.
            writer.transport.abort()

    def _answer(self, line: bytes, names: list[bytes], *, local: bool) -> bytes:
        match = _REQUEST.fullmatch(line)
        if match is None:
            return _response(HTTPStatus.BAD_REQUEST)
        if local and not all(map(_LOCAL_NAME.fullmatch, names)):
            return _response(HTTPStatus.MISDIRECTED_REQUEST)
        method, target = match.groups()
        if target.partition(b"?")[0] != PATH.encode():
            return _response(HTTPStatus.NOT_FOUND)
        if method != b"GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, allow=True)
        now = asyncio.get_running_loop().time()
        if self._written is None or now - self._written > _FRESH_SECONDS:
            self._page, self._written = self._write().encode(), now
        return _response(HTTPStatus.OK, self._page, CONTENT_TYPE)


def _is_loopback(writer: asyncio.StreamWriter) -> bool:
    name = writer.get_extra_info("sockname")
    return isinstance(name, tuple) and ip_address(name[0]).is_loopback


async def _head(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """The first line, and who is asked; the rest is read and dropped. Raises ValueError for a head that is too long."""
    first = line = await reader.readline()
    names: list[bytes] = []
    left = _HEAD_BYTES
    while line not in {b"\r\n", b"\n", b""}:
        left -= len(line)
        if left < 0 or len(first) > _LINE_BYTES:
            raise ValueError
        line = await reader.readline()
        field, _, value = line.partition(b":")
        if field.strip().lower() == b"host":
            names.append(value.strip())
    return first, names


def _response(status: HTTPStatus, body: bytes | None = None, kind: str = _PLAIN, *, allow: bool = False) -> bytes:
    body = f"{status.phrase}\n".encode() if body is None else body
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(["Allow: GET"] if allow else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
