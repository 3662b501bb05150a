"""Stream transports behind one address form: ``tcp://HOST:PORT`` and ``unix:///path``."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.errors import ConfigurationError, TransportError

BACKLOG = 256
# Longest path a sockaddr_un holds on Linux (unix(7)).
_UNIX_PATH_BYTES = 107
_TCP = re.compile(r"tcp://(?:\[([0-9A-Za-z:.%]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})/?")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Protocols = Callable[[], asyncio.BaseProtocol]
"""Makes the protocol of one connection."""


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
        if match := _TCP.fullmatch(text):
            bracketed, name, port = match.groups()
            if int(port) < 2**16:
                return cls("tcp", host=bracketed or name, port=int(port))
        elif text.startswith("unix:///") and "\0" not in text:
            path = text.removeprefix("unix://")
            if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
                raise ConfigurationError(
                    f"address {text!r}: a Unix socket's path holds at most {_UNIX_PATH_BYTES} bytes; use a shorter one",
                    code="address.malformed",
                )
            return cls("unix", path=path)
        raise ConfigurationError(
            f"address {text!r} is not of the form tcp://HOST:PORT or unix:///path", code="address.malformed"
        )

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def connect(address: Address, *, timeout: float) -> socket.socket:
    """A connected blocking socket whose every operation is bounded by `timeout` seconds. Raises `TransportError`.

    All of a name's addresses are tried within that time; to resolve the name takes as long as the resolver likes.
    """
    deadline = time.monotonic() + timeout
    try:
        if address.scheme == "unix":
            return _connected(socket.AF_UNIX, address.path, timeout, timeout)
        failure: OSError = TimeoutError("no address of that name answers")
        for family, _, _, _, at in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
            try:
                connection = _connected(family, at, max(0.001, deadline - time.monotonic()), timeout)
            except OSError as error:
                failure = error
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        raise failure
    except (OSError, UnicodeError) as error:
        raise _unreachable(address, error) from error


def _connected(family: int, at: object, within: float, timeout: float) -> socket.socket:
    connection = socket.socket(family)
    try:
        connection.settimeout(within)
        connection.connect(at)  # type: ignore[arg-type]
        connection.settimeout(timeout)
    except BaseException:
        connection.close()
        raise
    return connection


async def open_stream(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connected asyncio stream. Raises `TransportError`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = await dial(address, lambda: protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def dial(address: Address, protocols: Protocols) -> asyncio.Transport:
    """Connect a protocol. Raises `TransportError`."""
    loop = asyncio.get_running_loop()
    try:
        if address.scheme == "tcp":
            transport, _ = await loop.create_connection(protocols, address.host, address.port)
        else:
            transport, _ = await loop.create_unix_connection(protocols, sock=_unix_connected(address.path))
    except (OSError, UnicodeError) as error:
        raise _unreachable(address, error) from error
    return transport


async def listen(address: Address, handler: Handler) -> tuple[asyncio.Server, Address]:
    """Listen and serve streams, as `serve` does."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The end of the process cancels it: Python 3.11 would log that as a failure.
        with suppress(asyncio.CancelledError):
            await handler(reader, writer)

    loop = asyncio.get_running_loop()
    return await serve(
        address, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), connected, loop=loop)
    )


async def serve(address: Address, protocols: Protocols) -> tuple[asyncio.Server, Address]:
    """Listen, with a protocol for each connection; port 0 picks a free one, the address really bound is returned.

    Raises `ConfigurationError` when the address is taken or not ours to bind.
    """
    loop = asyncio.get_running_loop()
    try:
        if address.scheme == "tcp":
            server = await loop.create_server(protocols, address.host, address.port, backlog=BACKLOG)
            host, port = server.sockets[0].getsockname()[:2]
            return server, Address("tcp", host=host, port=port)
        return await loop.create_unix_server(protocols, sock=_bound(address.path), backlog=BACKLOG), address
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"cannot listen on {address}: {_reason(error)}; stop what uses it or choose another address",
            code="address.in_use",
        ) from error


def _unix_connected(path: str) -> socket.socket:
    """A Unix socket connects at once or not at all: asyncio would take a full backlog's EAGAIN for success."""
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may have: each connection takes one or two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bound(path: str) -> socket.socket:
    """A socket bound to `path`, its owner's only; asyncio would take the path from whoever listens there."""
    _remove_stale(Path(path))
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
        Path(path).chmod(0o600)
    except BaseException:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on any more; one that answers is left for bind to refuse."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        # Somebody whose backlog is full is alive: the refusal to bind says the rest.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return


def _reason(error: OSError | UnicodeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _unreachable(address: Address, error: OSError | UnicodeError) -> TransportError:
    return TransportError(
        f"cannot reach {address}: {_reason(error)}; is the host process running there?",
        code="transport.unreachable",
    )
