"""Stream transports behind one address form: ``tcp://HOST:PORT`` and ``unix:///path``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ephemeralml.errors import ConfigurationError, TransportError

BACKLOG = 256
# Longest path a sockaddr_un holds on Linux (unix(7)).
_UNIX_PATH_BYTES = 107

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; `str()` gives it back."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `ConfigurationError` for anything but the two forms."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"address {text!r}: {error}", code="address.malformed") from error
        if parts.scheme == "tcp" and parts.hostname and port is not None and parts.path in {"", "/"}:
            return cls("tcp", host=parts.hostname, port=port)
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            if len(parts.path.encode()) > _UNIX_PATH_BYTES:
                raise ConfigurationError(
                    f"address {text!r}: a Unix socket's path holds at most {_UNIX_PATH_BYTES} bytes; use a shorter one",
                    code="address.malformed",
                )
            return cls("unix", path=parts.path)
        raise ConfigurationError(
            f"address {text!r} is not of the form tcp://HOST:PORT or unix:///path", code="address.malformed"
        )

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def connect(address: Address, *, timeout: float) -> socket.socket:
    """A connected blocking socket whose every operation is bounded by `timeout` seconds. Raises `TransportError`."""
    try:
        if address.scheme == "tcp":
            connection = socket.create_connection((address.host, address.port), timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
        return connection
    except OSError as error:
        raise _unreachable(address, error) from error


async def open_stream(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connected asyncio stream. Raises `TransportError`."""
    try:
        if address.scheme == "tcp":
            return await asyncio.open_connection(address.host, address.port)
        return await asyncio.open_unix_connection(address.path)
    except OSError as error:
        raise _unreachable(address, error) from error


async def listen(address: Address, handler: Handler) -> tuple[asyncio.Server, Address]:
    """Listen and serve; port 0 picks a free one, and the address really bound is returned.

    Raises `ConfigurationError` when the address is taken or not ours to bind.
    """
    try:
        if address.scheme == "tcp":
            server = await asyncio.start_server(handler, address.host, address.port, backlog=BACKLOG)
            host, port = server.sockets[0].getsockname()[:2]
            return server, Address("tcp", host=host, port=port)
        _remove_stale(Path(address.path))
        server = await asyncio.start_unix_server(handler, address.path, backlog=BACKLOG)
        Path(address.path).chmod(0o600)
        return server, address
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {address}: {error.strerror or error}; stop what uses it or choose another address",
            code="address.in_use",
        ) from error


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on any more; one that answers is left for bind to refuse."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _unreachable(address: Address, error: OSError) -> TransportError:
    return TransportError(
        f"cannot reach {address}: {error.strerror or error}; is the host process running there?",
        code="transport.unreachable",
    )
