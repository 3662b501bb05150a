"""Whether an enclave that runs still answers: it may hang, and its process lives on.

It is sent a frame that is none, since that costs it nothing: no document of its security module's, no place in a queue.
An enclave that is alive refuses it and hangs up, however busy; one that hangs is silent.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from typing import Final

from ephemeralml.errors import TransportError
from ephemeralml.host.launch import EnclaveFailedError
from ephemeralml.session.frames import HEADER
from ephemeralml.session.transport import Address, open_stream

_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# No type of a frame's.
_NO_FRAME: Final = HEADER.pack(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """An enclave is asked `every` so many seconds, has as many to answer, and hangs after so many `misses` in a row."""

    every: float = 30
    misses: int = 3


async def hangs(address: Address, health: Health) -> EnclaveFailedError:
    """Wait until the enclave at `address` hangs."""
    silent = 0
    while silent < health.misses:
        await asyncio.sleep(health.every)
        silent = 0 if await _answers(address, health.every) else silent + 1
    return EnclaveFailedError(
        f"the enclave runs and does not answer: {silent} times in a row it was not reached or said nothing for "
        f"{health.every:g} s",
        code="enclave.hung",
        passing=True,
    )


async def _answers(address: Address, seconds: float) -> bool:
    """Whether it says anything, or hangs up."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await open_stream(address)
            try:
                writer.write(_NO_FRAME)
                await reader.read(1)
            finally:
                writer.transport.abort()
    # It hung up.
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    except (TransportError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        # What this host lacks says nothing of the enclave.
        return isinstance(cause, OSError) and cause.errno in _OURS
    return True
