"""Streams over every kind of address behind one interface: connect or dial, listen or serve."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ephemeralml.errors import ConfigurationError, TransportError
from ephemeralml.session.address import Address
from ephemeralml.session.sockets import SocketFile, bound, connected, connected_async

__all__ = ["Address", "Handler", "Listener", "Protocols", "connect", "dial", "listen", "open_stream", "serve"]

BACKLOG = 256
# As long as an enclave gives a handshake: nobody waits for a peer longer than that.
_DIAL_SECONDS = 10.0

# Why the kernel lets nobody listen at an address (bind(2)): our code, and what to do.
_DENIED = ("address.denied", "allow this user or container to, or choose another address")
_REFUSALS = {
    errno.EADDRINUSE: ("address.in_use", "stop what uses it or choose another address"),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
}
_UNAVAILABLE = ("address.unavailable", "choose an address that this machine has")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Protocols = Callable[[], asyncio.BaseProtocol]
"""Makes the protocol of one connection."""


class Listener:
    """A server that listens; connections it has accepted live on after `close`."""

    def __init__(self, server: asyncio.Server, file: SocketFile | None) -> None:
        self._server = server
        self._file = file

    def close(self) -> None:
        """Listen no more, and leave no socket file behind."""
        # Python's own servers do that since 3.13.
        if self._file is not None:
            self._file.remove()
        self._server.close()


def connect(address: Address, *, timeout: float) -> socket.socket:
    """A connected blocking socket whose every operation is bounded by `timeout` seconds. Raises `TransportError`.

    All of a name's addresses are tried within that time; to resolve the name takes as long as the resolver likes.
    """
    try:
        connection = connected(address, deadline=time.monotonic() + timeout)
    except (OSError, UnicodeError) as error:
        raise _unreachable(address, error) from error
    connection.settimeout(timeout)
    return connection


async def open_stream(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connected asyncio stream. Raises `TransportError`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = await dial(address, lambda: protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def dial(address: Address, protocols: Protocols) -> asyncio.Transport:
    """Connect a protocol, within 10 seconds. Raises `TransportError`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_DIAL_SECONDS):
            if address.scheme == "tcp":
                transport, _ = await loop.create_connection(protocols, address.host, address.port)
            else:
                transport, _ = await loop.create_connection(protocols, sock=await connected_async(address))
    except (OSError, UnicodeError) as error:
        raise _unreachable(address, error) from error
    return transport


async def listen(address: Address, handler: Handler) -> tuple[Listener, Address]:
    """Listen and serve streams, as `serve` does."""
    # The loop holds no stream whose peer has finished sending: its handler, waiting elsewhere, would be collected.
    handling: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        # The end of the process cancels it: Python 3.11 would log that as a failure.
        try:
            with suppress(asyncio.CancelledError):
                await handler(reader, writer)
        finally:
            handling.discard(asyncio.current_task())

    loop = asyncio.get_running_loop()
    return await serve(
        address, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), connected, loop=loop)
    )


async def serve(address: Address, protocols: Protocols) -> tuple[Listener, Address]:
    """Listen, with a protocol for each connection; port 0 picks a free one, the address really bound is returned.

    Raises `ConfigurationError` when the address is taken, not ours to bind or not of this machine.
    """
    loop = asyncio.get_running_loop()
    try:
        if address.scheme == "tcp":
            server = await loop.create_server(protocols, address.host, address.port, backlog=BACKLOG)
            host, port = server.sockets[0].getsockname()[:2]
            return Listener(server, None), Address("tcp", host=host, port=port)
        listener = bound(address)
        server = await loop.create_server(protocols, sock=listener, backlog=BACKLOG)
        if address.scheme == "vsock":
            cid, port = listener.getsockname()
            return Listener(server, None), Address("vsock", cid=cid, port=port)
        return Listener(server, SocketFile(address.listening_path)), address
    except (OSError, UnicodeError) as error:
        code, advice = _REFUSALS.get(getattr(error, "errno", 0), _UNAVAILABLE)
        raise ConfigurationError(f"cannot listen on {address}: {reason(error)}; {advice}", code=code) from error


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may have: each connection takes one or two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reason(error: OSError | UnicodeError) -> str:
    """What the kernel or the resolver said, in its own words."""
    if not isinstance(error, OSError):
        return str(error)
    # asyncio puts a text of its own in place of the kernel's; a resolver's numbers are not errno's, and negative.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or "timed out"


def _unreachable(address: Address, error: OSError | UnicodeError) -> TransportError:
    return TransportError(
        f"cannot reach {address}: {reason(error)}; is the host process running there?",
        code="transport.unreachable",
    )
