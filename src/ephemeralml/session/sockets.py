"""Sockets that are connected or bound to an address, for each of its kinds."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ephemeralml.session import hybrid
from ephemeralml.session.address import PORT_ANY, Address

# No option of vsock's is set: the kernel's buffer of 256 KiB holds several writes of ours, and its 2 s for a connection
# are ample on one machine (vsock(7)); whatever deadline is ours cuts them short.


def connected(address: Address, *, deadline: float) -> socket.socket:
    """A connected socket that blocks, by `deadline` (monotonic); all addresses of a name are tried. Raises OSError."""
    failure: OSError = TimeoutError("no address of that name answers")
    for family, at in _places(address):
        connection = socket.socket(family)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(at)
            if address.scheme == "tcp":
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.scheme == "vsock+unix":
                hybrid.call(connection, address.port, deadline=deadline)
            return connection
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError):
                raise
            failure = error
    raise failure


async def connected_async(address: Address) -> socket.socket:
    """As `connected`, on the event loop and for anything but TCP, whose names asyncio resolves; not bounded in time."""
    ((family, at),) = _places(address)
    connection = socket.socket(family)
    connection.setblocking(False)
    try:
        if address.scheme == "vsock":
            await asyncio.get_running_loop().sock_connect(connection, at)
        else:
            # A Unix socket connects at once or not at all: asyncio would take a full backlog's EAGAIN for success.
            connection.connect(at)
        if address.scheme == "vsock+unix":
            await hybrid.call_async(connection, address.port)
    except BaseException:
        connection.close()
        raise
    return connection


def _places(address: Address) -> list[tuple[int, tuple[Any, ...] | str]]:
    match address.scheme:
        case "tcp":
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            return [(family, at) for family, _, _, _, at in found]
        case "vsock":
            return [(socket.AF_VSOCK, (address.cid, address.port))]
    return [(socket.AF_UNIX, address.path)]


def bound(address: Address) -> socket.socket:
    """A socket bound to anything but a TCP address. Raises OSError."""
    return _bound_vsock(address) if address.scheme == "vsock" else _bound_unix(Path(address.listening_path))


def _bound_vsock(address: Address) -> socket.socket:
    listener = socket.socket(socket.AF_VSOCK)
    try:
        # In vsock 0 is a port like others; here it means a free one, as in TCP.
        listener.bind((address.cid, address.port or PORT_ANY))
    except BaseException:
        listener.close()
        raise
    return listener


def _bound_unix(path: Path) -> socket.socket:
    """Its owner's only; asyncio would take the path from whoever listens there."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        listener.close()
        raise
    return listener


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


class SocketFile:
    """The file of a bound Unix socket: removed by its own listener, never a successor's."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._made = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.lstat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        """Call it while the socket still listens: until then nobody else takes the file for a stale one."""
        if self._made is not None and self._identity() == self._made:
            with suppress(OSError):
                self._path.unlink()
