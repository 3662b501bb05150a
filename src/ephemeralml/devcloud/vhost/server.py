"""The vhost-user protocol, from the back end's side: QEMU shares memory and rings, a device serves them.

Source: QEMU's docs/interop/vhost-user.rst. One thread, one QEMU at a time; another may come after it.
"""

from __future__ import annotations

import array
import os
import selectors
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import ClassVar, Final, Self

from ephemeralml.devcloud.vhost.memory import MAX_REGIONS, GuestMemory, Region, VhostError
from ephemeralml.devcloud.vhost.ring import Ring

_HEADER: Final = struct.Struct("<III")
_U64: Final = struct.Struct("<Q")
_STATE: Final = struct.Struct("<II")
_ADDRESSES: Final = struct.Struct("<IIQQQQ")
_REGIONS: Final = struct.Struct("<II")
_REGION: Final = struct.Struct("<QQQQ")
_CONFIG: Final = struct.Struct("<III")
_MAX_BODY: Final = 512
_VERSION, _VERSION_BITS, _REPLY, _NEED_REPLY = 1, 3, 4, 8
# In a message about a ring's descriptors: which ring, and that none came along.
_RING_INDEX, _NO_DESCRIPTOR = 0xFF, 0x100

# VIRTIO_F_VERSION_1 and VHOST_USER_F_PROTOCOL_FEATURES; then VHOST_USER_PROTOCOL_F_MQ, _REPLY_ACK and _CONFIG.
FEATURES: Final = 1 << 32 | 1 << 30
_REPLY_ACK: Final = 1 << 3
PROTOCOL_FEATURES: Final = 1 << 0 | _REPLY_ACK | 1 << 9


class Request(IntEnum):
    """What a front end may ask (vhost-user, "Front-end message types")."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25


class Device(ABC):
    """What is behind the rings. All methods are called in the server's thread.

    `rings` are the virtqueues in the order of the specification, `configuration` its configuration space.
    """

    ring_count: ClassVar[int]
    configuration: bytes = b""

    def __init__(self) -> None:
        self.rings: Sequence[Ring] = ()

    @abstractmethod
    def serve(self) -> None:
        """Do what can be done now: called when a ring was kicked or changed. Raises `VhostError`."""

    def attach(self, selector: selectors.BaseSelector) -> None:
        """Watch what the device itself waits for; the data of each key is a function to call."""
        del selector

    def reset(self) -> None:
        """Forget the guest that has gone."""
        self.rings = ()


class DeviceServer:
    """Serves `device` to whoever connects at `path`, in a thread of its own. Use as a context manager."""

    def __init__(self, device: Device, path: Path) -> None:
        self._device = device
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._connection: _Connection | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._path = path
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        device.attach(self._selector)
        self._thread = threading.Thread(target=self._run, name=f"vhost {path.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and take its socket away."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()

    def _woken(self) -> None:
        os.eventfd_read(self._wake)

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select():
                    call: Callable[[], None] = key.data
                    try:
                        call()
                    # Whatever the guest did is the guest's end, not the host's.
                    except (VhostError, OSError, struct.error):
                        self._hang_up()
        finally:
            self._hang_up()
            self._selector.close()
            self._listener.close()
            os.close(self._wake)
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        if self._connection is not None:
            accepted.close()
            return
        self._connection = _Connection(accepted, self._device, self._selector)
        self._selector.register(accepted, selectors.EVENT_READ, self._message)

    def _message(self) -> None:
        if self._connection is not None and not self._connection.message():
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(self._connection.socket)
            self._connection.close()
            self._connection = None


class _Connection:
    """One QEMU: its memory and rings, until it leaves."""

    def __init__(self, accepted: socket.socket, device: Device, selector: selectors.BaseSelector) -> None:
        self.socket = accepted
        self._device = device
        self._selector = selector
        self._memory: GuestMemory | None = None
        self._acknowledge = False
        self._rings = [Ring() for _ in range(device.ring_count)]
        device.rings = self._rings

    def close(self) -> None:
        for ring in self._rings:
            self._unwatch(ring)
            ring.close()
        self.socket.close()
        self._device.reset()

    def message(self) -> bool:
        """Take one message; False when there is none any more. Raises `VhostError`, OSError, struct.error."""
        header, descriptors = self._receive()
        try:
            if not header:
                return False
            request, flags, size = _HEADER.unpack(header)
            if flags & _VERSION_BITS != _VERSION or size > _MAX_BODY:
                raise VhostError("a message of another version, or too long")
            body = self._exactly(size)
            answer = self._answer(request, body, descriptors)
            if answer is None and flags & _NEED_REPLY and self._acknowledge:
                answer = _U64.pack(0)
            if answer is not None:
                self.socket.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._device.serve()
        return True

    def _receive(self) -> tuple[bytes, list[int]]:
        """A message's header and the descriptors that came with it."""
        room = array.array("i")
        data, controls, _, _ = self.socket.recvmsg(_HEADER.size, socket.CMSG_SPACE(MAX_REGIONS * room.itemsize))
        for level, kind, content in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                room.frombytes(content[: len(content) - len(content) % room.itemsize])
        descriptors = list(room)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        if data:
            data += self._exactly(_HEADER.size - len(data))
        return data, descriptors

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise VhostError("a message ends early")
            data += part
        return data

    def _answer(self, request: int, body: bytes, descriptors: list[int]) -> bytes | None:
        """Do as asked; what to answer, if anything. Takes out of `descriptors` those that it keeps."""
        match request:
            case Request.GET_FEATURES:
                return _U64.pack(FEATURES)
            case Request.GET_PROTOCOL_FEATURES:
                return _U64.pack(PROTOCOL_FEATURES)
            case Request.SET_PROTOCOL_FEATURES:
                self._acknowledge = bool(_U64.unpack(body)[0] & _REPLY_ACK)
            case Request.GET_QUEUE_NUM:
                return _U64.pack(len(self._rings))
            # Nothing here depends on them.
            case Request.SET_FEATURES | Request.SET_OWNER | Request.RESET_OWNER | Request.SET_CONFIG:
                return None
            case Request.SET_MEM_TABLE:
                self._set_memory(body, descriptors)
            case Request.GET_CONFIG:
                return self._configuration(body)
            case Request.SET_VRING_ADDR:
                self._set_addresses(body)
            case Request.SET_VRING_NUM | Request.SET_VRING_BASE | Request.GET_VRING_BASE | Request.SET_VRING_ENABLE:
                return self._ring_state(request, body)
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR:
                self._ring_descriptor(request, body, descriptors)
            case _:
                raise VhostError(f"a request of a kind that was not offered ({request})")
        return None

    def _set_memory(self, body: bytes, descriptors: list[int]) -> None:
        count, _ = _REGIONS.unpack_from(body)
        if count > MAX_REGIONS or len(body) < _REGIONS.size + count * _REGION.size:
            raise VhostError("a memory table that is too long for its message")
        regions = [Region(*_REGION.unpack_from(body, _REGIONS.size + index * _REGION.size)) for index in range(count)]
        self._memory = GuestMemory(regions, descriptors)

    def _configuration(self, body: bytes) -> bytes:
        offset, size, flags = _CONFIG.unpack_from(body)
        if offset + size > _MAX_BODY:
            raise VhostError("a question about more configuration than there can be")
        known = self._device.configuration[offset : offset + size]
        return _CONFIG.pack(offset, size, flags) + known.ljust(size, b"\0")

    def _set_addresses(self, body: bytes) -> None:
        index, _, descriptors, used, available, _ = _ADDRESSES.unpack(body)
        if self._memory is None:
            raise VhostError("a ring without memory")
        self._ring(index).set_addresses(self._memory, descriptors=descriptors, available=available, used=used)

    def _ring_state(self, request: int, body: bytes) -> bytes | None:
        index, value = _STATE.unpack(body)
        ring = self._ring(index)
        match request:
            case Request.SET_VRING_NUM:
                ring.set_size(value)
            case Request.SET_VRING_BASE:
                ring.base = value % 2**16
            case Request.SET_VRING_ENABLE:
                ring.enabled = bool(value)
            case Request.GET_VRING_BASE:
                self._unwatch(ring)
                return _STATE.pack(index, ring.stop())
        return None

    def _ring_descriptor(self, request: int, body: bytes, descriptors: list[int]) -> None:
        (value,) = _U64.unpack(body)
        ring = self._ring(value & _RING_INDEX)
        descriptor = None if value & _NO_DESCRIPTOR or not descriptors else descriptors.pop(0)
        if request == Request.SET_VRING_CALL:
            ring.set_call(descriptor)
        elif request == Request.SET_VRING_KICK:
            self._unwatch(ring)
            ring.set_kick(descriptor)
            if descriptor is not None:
                os.set_blocking(descriptor, False)
                self._selector.register(descriptor, selectors.EVENT_READ, lambda: self._kicked(descriptor))
        elif descriptor is not None:
            os.close(descriptor)

    def _kicked(self, descriptor: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(descriptor)
        self._device.serve()

    def _unwatch(self, ring: Ring) -> None:
        if ring.kick is not None:
            with suppress(KeyError):
                self._selector.unregister(ring.kick)

    def _ring(self, index: int) -> Ring:
        if index >= len(self._rings):
            raise VhostError(f"there is no ring {index}")
        return self._rings[index]
