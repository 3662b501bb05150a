"""The Nitro Secure Module of an enclave: the device ``/dev/nsm``, one ioctl a request (Linux drivers/misc/nsm.c)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Final, Self

from ephemeralml.enclave.security_module import RESPONSE_BYTES, SecurityModule, SecurityModuleError

DEVICE: Final = Path("/dev/nsm")
# NSM_IOCTL_RAW, _IOWR(0x0A, 0, struct nsm_raw) (include/uapi/linux/nsm.h).
IOCTL_RAW: Final = 0xC0200A00
# The driver waits without being interruptible, so once is the rule.
_ATTEMPTS = 8


class _Vector(ctypes.Structure):
    """``struct nsm_iovec``: where a buffer is, and its length."""

    _fields_ = (("address", ctypes.c_uint64), ("length", ctypes.c_uint64))


class Raw(ctypes.Structure):
    """``struct nsm_raw``: the request, and room for the response, whose length the kernel fills in."""

    _fields_ = (("request", _Vector), ("response", _Vector))


class NitroSecurityModule(SecurityModule):
    """The NSM behind `descriptor`, its opened device. The driver takes requests one at a time."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path = DEVICE) -> Self:
        """Open the device at `path`. Raises `SecurityModuleError` when there is none."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise SecurityModuleError(
                f"cannot open {path}: {error.strerror}. This is no Nitro enclave, or its kernel has no NSM driver",
                code="nsm.device",
            ) from error

    def _exchange(self, request: bytes) -> bytes:
        sent = ctypes.create_string_buffer(request, len(request))
        room = ctypes.create_string_buffer(RESPONSE_BYTES)
        raw = Raw((ctypes.addressof(sent), len(request)), (ctypes.addressof(room), RESPONSE_BYTES))
        self._call(raw)
        length: int = raw.response.length
        if length > RESPONSE_BYTES:
            raise SecurityModuleError(
                f"the NSM driver claims an answer of {length} bytes in a buffer of {RESPONSE_BYTES}",
                code="nsm.driver",
            )
        return room.raw[:length]

    def _call(self, raw: Raw) -> None:
        for _ in range(_ATTEMPTS):
            try:
                fcntl.ioctl(self._descriptor, IOCTL_RAW, raw)
            # Python does not repeat an ioctl that a signal broke off. A PCR extended twice shows in its value.
            except InterruptedError:
                continue
            except OSError as error:
                name = errno.errorcode.get(error.errno or 0, "unknown")
                raise SecurityModuleError(
                    f"the kernel does not carry a request to the NSM: {error.strerror} ({name}). The device is not "
                    "the NSM's, or the NSM is broken: restart the enclave",
                    code="nsm.driver",
                ) from error
            else:
                return
        raise SecurityModuleError(f"a request to the NSM was interrupted {_ATTEMPTS} times (EINTR)", code="nsm.driver")
