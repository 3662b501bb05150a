"""An S3 that goes wrong as it is told: for each request of an object, the next of a script, then as S3 does."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeAlias

ETAG = '"0123456789abcdef0123456789abcdef"'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: FaultyS3

    def do_GET(self) -> None:
        key = self.path.partition("?")[0].removeprefix("/")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match is not None
        data = self.faulty.objects[key]
        request = Ask(self, data, int(match[1]), min(int(match[2]) + 1, len(data)), self.headers.get("If-Match"))
        with self.faulty.lock:
            self.faulty.asked.append((key, request.start, request.if_match))
            script = self.faulty.scripts.get(key)
            behave = script.popleft() if script else as_s3_does
        behave(request)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Ask:
    """One request, and how to answer it."""

    handler: Handler
    data: bytes
    start: int
    stop: int
    if_match: str | None

    def answer(
        self,
        body: bytes,
        *,
        status: int = 206,
        content_range: str | None = None,
        length: int | None = None,
        etag: str = ETAG,
    ) -> None:
        if content_range is None:
            content_range = f"bytes {self.start}-{self.stop - 1}/{len(self.data)}"
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (("ETag", etag), ("Content-Range", content_range)):
            if value:
                self.handler.send_header(name, value)
        self.handler.end_headers()
        self.handler.wfile.write(body)

    @property
    def asked(self) -> bytes:
        return self.data[self.start : self.stop]

    def hang_up(self) -> None:
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)


Behaviour: TypeAlias = Callable[[Ask], None]


def as_s3_does(ask: Ask) -> None:
    ask.answer(ask.asked)


def drops_after(count: int) -> Behaviour:
    """The connection ends after `count` bytes of the body."""

    def behave(ask: Ask) -> None:
        ask.answer(ask.asked[:count], length=len(ask.asked))
        ask.hang_up()

    return behave


def resets_after(count: int) -> Behaviour:
    """As if the machine had been pulled from under it."""

    def behave(ask: Ask) -> None:
        ask.answer(ask.asked[:count], length=len(ask.asked))
        ask.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ask.handler.close_connection = True
        ask.handler.rfile.close()
        ask.handler.connection.close()

    return behave


def hangs_up(ask: Ask) -> None:
    ask.hang_up()


def stops_after(count: int, faulty: FaultyS3) -> Behaviour:
    """Nothing more comes, and the connection stays open."""

    def behave(ask: Ask) -> None:
        ask.answer(ask.asked[:count], length=len(ask.asked))
        faulty.over.wait(60)
        ask.hang_up()

    return behave


def trickles(faulty: FaultyS3) -> Behaviour:
    def behave(ask: Ask) -> None:
        ask.answer(b"", length=len(ask.asked))
        for byte in ask.asked:
            if faulty.over.wait(0.05):
                break
            try:
                ask.handler.wfile.write(bytes([byte]))
            except OSError:
                break
        ask.handler.close_connection = True

    return behave


def says(status: int, body: bytes, **headers: str) -> Behaviour:
    """An answer without anything of an object."""

    def behave(ask: Ask) -> None:
        ask.handler.send_response(status)
        for name, value in headers.items():
            ask.handler.send_header(name.replace("_", "-"), value)
        ask.handler.send_header("Content-Length", str(len(body)))
        ask.handler.end_headers()
        ask.handler.wfile.write(body)

    return behave


def refuses(code: str, status: int) -> Behaviour:
    return says(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>why</Message></Error>".encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is what many a test is about."""


class FaultyS3:
    """Serves `objects`, by ``bucket/key``, with `scripts` by the same; `asked` is what came: (key, start, If-Match)."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.scripts: dict[str, deque[Behaviour]] = {}
        self.asked: list[tuple[str, int, str | None]] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (Handler,), {"faulty": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
