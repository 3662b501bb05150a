"""One virtual device's connection to QEMU: follows vhost-user's messages, and lets the device serve its rings.

Offered are VERSION_1 and the protocol features MQ, REPLY_ACK and, of a device with a configuration, CONFIG: no
migration, no descriptors for polling, no requests of our own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from ephemeralml.devcloud.vhost.memory import GuestMemory
from ephemeralml.devcloud.vhost.message import Channel, Message, Request, malformed
from ephemeralml.devcloud.vhost.queue import Virtqueue
from ephemeralml.devcloud.vhost.ring import Ring
from ephemeralml.devcloud.vhost.violation import DeviceViolationError

_LOGGED: Final = 10
_log = logging.getLogger("ephemeralml.devcloud")

# VIRTIO_F_VERSION_1 (virtio, chapter 6) and VHOST_USER_F_PROTOCOL_FEATURES.
_VERSION_1, _PROTOCOL_FEATURES = 1 << 32, 1 << 30
FEATURES: Final = _VERSION_1 | _PROTOCOL_FEATURES
# MQ, REPLY_ACK, CONFIG ("Protocol features").
_PROTOCOL, _CONFIG = 1 << 0 | 1 << 3, 1 << 9
_INDEX, _NO_DESCRIPTOR = 0xFF, 0x100
_CONFIG_HEADER: Final = struct.Struct("<III")


class Device(Protocol):
    """What is behind the rings. Everything happens in one event loop."""

    rings: int
    configuration: bytes

    def serve(self, queues: Sequence[Virtqueue | None]) -> bool:
        """Serve what is waiting in the rings, for a while; whether more is. None: a ring that is not to be served.

        Raises `DeviceViolationError` (``vhost.ring``) for a guest that breaks its rings.
        """

    def attach(self, wake: Callable[[], None]) -> None:
        """A front-end is there: `wake` asks it to have the rings served."""

    def reset(self) -> None:
        """The guest has let go of the device: nothing of what it had is left."""


class Backend:
    """Serves `device` to one front-end after the other at the Unix socket `listener`, until `close`.

    `on_violation` hears why a ring or a connection is served no more.
    """

    def __init__(
        self,
        device: Device,
        listener: socket.socket,
        *,
        on_violation: Callable[[DeviceViolationError], None] | None = None,
    ) -> None:
        self._device = device
        self._listener = listener
        # A guest can break its rings without end, and is not to fill a log so.
        self._told = itertools.count(1)
        self._on_violation = on_violation or self._log
        self._loop = asyncio.get_running_loop()
        self._session: _Session | None = None
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def _log(self, error: DeviceViolationError) -> None:
        if next(self._told) <= _LOGGED:
            _log.warning("%s", error)

    def close(self) -> None:
        """Let go of the front-end and listen no more."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._session is not None:
            self._session.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        # A device has one front-end: QEMU, or the one that QEMU's successor has.
        if self._session is not None and not self._session.closed:
            connection.close()
            return
        connection.setblocking(False)
        self._session = _Session(self._device, connection, self._on_violation)


class _Session:
    """One front-end, from its connection to its end."""

    def __init__(
        self, device: Device, connection: socket.socket, on_violation: Callable[[DeviceViolationError], None]
    ) -> None:
        self._device = device
        self._channel = Channel(connection)
        self._connection = connection
        self._on_violation = on_violation
        self._loop = asyncio.get_running_loop()
        self._memory = GuestMemory()
        self._rings = [Ring() for _ in range(device.rings)]
        self._features = 0
        self._protocol = _PROTOCOL | (_CONFIG if device.configuration else 0)
        self._serving: asyncio.Handle | None = None
        self.closed = False
        self._handlers: Final[Mapping[Request, Callable[[Message], bytes | None]]] = {
            Request.GET_FEATURES: lambda _: FEATURES.to_bytes(8, "little"),
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: lambda _: None,
            Request.SET_MEM_TABLE: self._set_memory,
            Request.SET_VRING_NUM: self._set_size,
            Request.SET_VRING_ADDR: self._set_addresses,
            Request.SET_VRING_BASE: self._set_base,
            Request.GET_VRING_BASE: self._stop,
            Request.SET_VRING_KICK: self._start,
            Request.SET_VRING_CALL: self._set_call,
            Request.SET_VRING_ERR: self._set_error,
            Request.GET_PROTOCOL_FEATURES: lambda _: self._protocol.to_bytes(8, "little"),
            Request.SET_PROTOCOL_FEATURES: self._set_protocol,
            Request.GET_QUEUE_NUM: lambda _: device.rings.to_bytes(8, "little"),
            Request.SET_VRING_ENABLE: self._enable,
            Request.GET_CONFIG: self._configuration,
            Request.SET_CONFIG: lambda _: None,
        }
        self._loop.add_reader(connection, self._read)
        device.attach(self._wake)

    def close(self) -> None:
        """End it: the rings are let go, and what the guest had of the device with them."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._connection)
        if self._serving is not None:
            self._serving.cancel()
        for ring in self._rings:
            self._end(ring)
        self._memory = GuestMemory()
        self._device.reset()
        self._channel.close()

    def _read(self) -> None:
        try:
            # One at a time: the rings have their turn in between.
            if (message := self._channel.receive()) is not None:
                try:
                    self._follow(message)
                finally:
                    message.close()
        except (EOFError, OSError):
            self.close()
        except DeviceViolationError as error:
            self._on_violation(error)
            self.close()

    def _follow(self, message: Message) -> None:
        reply = self._handlers[message.request](message)
        if reply is not None:
            self._channel.reply(message.request, reply)
        elif message.needs_reply:
            # Zero for success; for the rest there is the end of the connection.
            self._channel.reply(message.request, bytes(8))

    def _set_features(self, message: Message) -> None:
        self._features = _among(message.number(), FEATURES)

    def _set_protocol(self, message: Message) -> None:
        _among(message.number(), self._protocol)

    def _set_memory(self, message: Message) -> None:
        self._memory = GuestMemory.map(message.payload, message.descriptors)
        for ring in self._rings:
            if ring.queue is not None:
                ring.map(self._memory, ring.queue.base)

    def _set_size(self, message: Message) -> None:
        index, size = message.numbers("II")
        self._idle(index).resize(size)

    def _set_addresses(self, message: Message) -> None:
        index, flags, descriptors, used, available, _ = message.numbers("IIQQQQ")
        if flags:
            raise malformed(f"a ring with the flags {flags:#x}")
        self._idle(index).addresses = (descriptors, used, available)

    def _set_base(self, message: Message) -> None:
        index, base = message.numbers("II")
        if base >= 1 << 16:
            raise malformed(f"a ring that starts at {base}")
        self._idle(index).base = base

    def _stop(self, message: Message) -> bytes:
        index, _ = message.numbers("II")
        ring = self._ring(index)
        base = self._end(ring)
        # A driver that resets its device stops all of them.
        if all(ring.queue is None for ring in self._rings):
            self._device.reset()
        return struct.pack("<II", index, base)

    def _start(self, message: Message) -> None:
        ring, kick = self._event(message)
        if kick is None:
            raise malformed("a ring to be polled")
        if ring.kick is not None:
            self._loop.remove_reader(ring.kick)
        os.set_blocking(kick, False)
        ring.start(self._memory, kick)
        # Without protocol features nobody would enable it ("Ring states").
        ring.enabled = ring.enabled or not self._features & _PROTOCOL_FEATURES
        self._loop.add_reader(kick, self._kicked, ring)
        self._wake()

    def _set_call(self, message: Message) -> None:
        ring, call = self._event(message)
        if call is not None:
            os.set_blocking(call, False)
        ring.notify_with(call)

    def _set_error(self, message: Message) -> None:
        # Whoever reads our log knows more.
        _, descriptor = self._event(message)
        if descriptor is not None:
            os.close(descriptor)

    def _enable(self, message: Message) -> None:
        index, enabled = message.numbers("II")
        self._ring(index).enabled = bool(enabled)
        self._wake()

    def _configuration(self, message: Message) -> bytes:
        if len(message.payload) < _CONFIG_HEADER.size:
            raise malformed("GET_CONFIG without a header")
        offset, size, flags = _CONFIG_HEADER.unpack_from(message.payload)
        if size > len(message.payload) - _CONFIG_HEADER.size:
            raise malformed(f"GET_CONFIG for {size} bytes")
        found = self._device.configuration[offset : offset + size]
        return _CONFIG_HEADER.pack(offset, size, flags) + found.ljust(size, b"\0")

    def _ring(self, index: int) -> Ring:
        if index >= len(self._rings):
            raise malformed(f"ring {index} of {len(self._rings)}")
        return self._rings[index]

    def _idle(self, index: int) -> Ring:
        ring = self._ring(index)
        if ring.queue is not None:
            raise malformed(f"a change of ring {index}, which is started")
        return ring

    def _event(self, message: Message) -> tuple[Ring, int | None]:
        value = message.number()
        if value & ~(_INDEX | _NO_DESCRIPTOR) or bool(value & _NO_DESCRIPTOR) == bool(message.descriptors):
            raise malformed(f"{message.request.name} with {len(message.descriptors)} descriptors")
        ring = self._ring(value & _INDEX)
        return ring, message.take()

    def _end(self, ring: Ring) -> int:
        if ring.kick is not None:
            self._loop.remove_reader(ring.kick)
        return ring.stop()

    def _kicked(self, ring: Ring) -> None:
        if ring.kick is not None:
            with suppress(BlockingIOError):
                os.read(ring.kick, 8)
        self._wake()

    def _wake(self) -> None:
        if self._serving is None and not self.closed:
            self._serving = self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._serving = None
        try:
            more = self._device.serve([ring.served for ring in self._rings])
        except DeviceViolationError as error:
            # The guest has broken its own device: no ring of it is served until all are set up anew.
            self._on_violation(error)
            for ring in self._rings:
                ring.fail()
            self._device.reset()
            return
        # Others have their turn in between.
        if more:
            self._wake()


def _among(features: int, offered: int) -> int:
    if features & ~offered:
        raise malformed(f"features {features:#x}, of which not all were offered")
    return features
