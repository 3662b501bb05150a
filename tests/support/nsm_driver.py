"""The kernel's NSM driver at the ioctl boundary, as Linux drivers/misc/nsm.c behaves."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

# By hand, not from the code under test: struct nsm_raw is {request addr, len; response addr, len}, all u64.
_RAW = struct.Struct("=QQQQ")
_RESPONSE_LENGTH_AT = 24
_IOCTL = 0xC0200A00
_REQUEST_BYTES = 0x1000


class NsmDriver:
    """Stands in for `fcntl.ioctl` on one device: reads the request and writes the response by their addresses.

    `handle` is the module behind it. `errors` are raised one a call before anything else is done; `claim` changes the
    length that the driver writes back. `requests` are those that reached the module.
    """

    def __init__(self, device: Path, handle: Callable[[bytes], bytes]) -> None:
        self._device = device.stat()
        self._handle = handle
        self._kernel = fcntl.ioctl
        self._lock = threading.Lock()
        self.errors: list[int] = []
        self.claim: Callable[[int], int] = lambda length: length
        self.requests: list[bytes] = []

    def ioctl(self, file: int | FileIO, command: int, argument: Any = 0) -> int:
        if not os.path.samestat(os.fstat(file if isinstance(file, int) else file.fileno()), self._device):
            return int(self._kernel(file, command, argument))
        if self.errors:
            self._fail(self.errors.pop(0))
        if command != _IOCTL:
            self._fail(errno.EINVAL)
        view = memoryview(argument).cast("B")
        assert len(view) == _RAW.size
        request, length, response, room = _RAW.unpack(view)
        if length > _REQUEST_BYTES:
            self._fail(errno.EMSGSIZE)
        if not request or not response:
            self._fail(errno.EFAULT)
        with self._lock:
            self.requests.append(ctypes.string_at(request, length))
            answer = self._handle(self.requests[-1])
        # Truncates what does not fit, and says how long the rest is.
        answer = answer[:room]
        ctypes.memmove(response, answer, len(answer))
        struct.pack_into("=Q", view, _RESPONSE_LENGTH_AT, self.claim(len(answer)))
        return 0

    @staticmethod
    def _fail(number: int) -> None:
        raise OSError(number, os.strerror(number))
