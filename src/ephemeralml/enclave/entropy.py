"""The kernel's random numbers in a machine without devices: seeded by the NSM, or the enclave does not start.

An enclave has no disk, keyboard or network card to gather chance from, and all its keys come from the kernel.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from ephemeralml.enclave.security_module import SecurityModule
from ephemeralml.errors import PlatformError

GENERATOR: Final = Path("/sys/devices/virtual/misc/hw_random/rng_current")
POOL: Final = Path("/dev/random")

# The name under which the NSM's driver offers itself to the kernel's generator (Linux drivers/misc/nsm.c).
_NSM_GENERATOR = "nsm-hwrng"
# RNDADDENTROPY, _IOW('R', 3, int[2]), and the head of its struct rand_pool_info: bits credited, bytes (random(4)).
RNDADDENTROPY: Final = 0x40085203
RNDRESEEDCRNG: Final = 0x5207
"""_IO('R', 7)."""

_POOL_INFO = struct.Struct("=ii")
# The driver's own estimate of its bits: quality 1000 in 1024 (linux/hw_random.h).
_QUALITY, _OF = 1000, 1024


def seed_kernel(module: SecurityModule, *, generator: Path = GENERATOR, pool: Path = POOL) -> None:
    """Mix the module's random bytes into the kernel's pool, once the kernel is known to draw on the NSM itself.

    Raises `PlatformError` when it does not, when the pool takes nothing or when it still is not seeded after that;
    `SecurityModuleError` when the module gives no bytes.
    """
    try:
        current = generator.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise PlatformError(
            f"the enclave's kernel does not say where its random numbers come from: {generator}: {error.strerror}",
            code="entropy.generator",
        ) from error
    if current != _NSM_GENERATOR:
        raise PlatformError(
            f"the enclave's kernel draws random numbers from {current[:32]!r}, not from {_NSM_GENERATOR!r}: "
            "build the image with a kernel that has the NSM driver",
            code="entropy.generator",
        )
    data = module.random()
    info = bytearray(_POOL_INFO.pack(8 * len(data) * _QUALITY // _OF, len(data)) + data)
    try:
        with pool.open("rb", buffering=0) as device:
            fcntl.ioctl(device, RNDADDENTROPY, info)
            # What is mixed in counts at the generator's next key, which else comes a minute later.
            fcntl.ioctl(device, RNDRESEEDCRNG)
    except OSError as error:
        raise PlatformError(
            f"the enclave's kernel does not take random bytes: {pool}: {error.strerror}; the enclave must run as root",
            code="entropy.pool",
        ) from error
    try:
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError as error:
        raise PlatformError(
            "the enclave's kernel has no random numbers yet, in spite of the NSM's", code="entropy.pool"
        ) from error
