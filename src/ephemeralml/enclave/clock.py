"""The time in receipts: the system's clock, held against the security module's at each attestation document.

Nothing sets an enclave's clock once it runs, and drift of six seconds a week has been seen; the module's time is the
hypervisor's, out of the host's reach.
"""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Final

from ephemeralml.errors import PlatformError

CLOCK_SOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
MAX_DIFFERENCE_SECONDS: Final = 60
"""Ten weeks of the worst drift seen, and a fifth of what clients and auditors allow a receipt's time to be off."""

MAX_ANSWER_SECONDS: Final = 10
"""The module takes milliseconds, one request at a time: room for a long queue, and what a whole handshake gets."""

# What a Nitro enclave's kernel takes by itself: kvm-clock, or the counter under it where the hypervisor says that it
# runs at one rate (Linux 7539b174aef4). Any other is emulated, or counts interrupts and loses some.
_SOURCES = ("kvm-clock", "tsc")
# The same counter, until the kernel has measured its rate twice.
_PASSING_SOURCE = "tsc-early"
_PASSING_SECONDS = 20


def require_clock_source(path: Path = CLOCK_SOURCE) -> None:
    """Raises `PlatformError` unless the kernel counts time by the hypervisor's clock, or soon does after its start."""
    deadline = time.monotonic() + _PASSING_SECONDS
    while (source := _source(path)) == _PASSING_SOURCE and time.monotonic() < deadline:
        time.sleep(0.1)
    if source not in _SOURCES:
        raise PlatformError(
            f"the enclave's clock source is {source[:32]!r}, it must be {' or '.join(_SOURCES)}: "
            "build the image with a kernel that has one",
            code="clock.source",
        )


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise PlatformError(
            f"the enclave's kernel does not say what its clock source is: {path}: {error.strerror}",
            code="clock.source",
        ) from error


class Clock:
    """Unix time as the security module has it. Tells none before the first document, or while the two disagree.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Seconds by which the module is ahead of the system's clock, and when the document was asked for that says so.
        self._ahead: float | None = None
        self._asked = -math.inf

    def compare(self, stamp: datetime, *, asked: float, answered: float, system: float) -> None:
        """Note how far `stamp` is from the system's clock, which had `system` (Unix time) at the answer.

        The document was made between `asked` and `answered`, of the monotonic clock: a step of the system's is not to
        pass for a slow answer. Of documents under way at once, the one asked for last counts.
        Raises `PlatformError` for more than `MAX_DIFFERENCE_SECONDS` (``clock.drift``), and for an answer that took
        more than `MAX_ANSWER_SECONDS` (``clock.slow``), which changes nothing.
        """
        told, took = stamp.timestamp(), answered - asked
        # However long the module took, only what lies outside that while is a difference.
        ahead = told - min(max(told, system - took), system)
        drifted = abs(ahead) > MAX_DIFFERENCE_SECONDS
        if took > MAX_ANSWER_SECONDS and not drifted:
            raise PlatformError(
                f"the enclave's security module took {took:.0f} s for a document, {MAX_ANSWER_SECONDS} s are allowed: "
                "try again, and restart the enclave if it stays so",
                code="clock.slow",
            )
        with self._lock:
            if asked >= self._asked:
                self._asked = asked
                self._ahead = None if drifted else ahead
        if drifted:
            raise PlatformError(
                f"the enclave's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} its security "
                f"module's, {MAX_DIFFERENCE_SECONDS} s are allowed: restart the enclave",
                code="clock.drift",
            )

    def now(self) -> float:
        """Unix time in seconds. Raises `PlatformError` when it is not known."""
        ahead = self._ahead
        if ahead is None:
            raise PlatformError(
                "the enclave's clock does not agree with its security module's, so nothing can be dated: "
                "restart the enclave",
                code="clock.drift",
            )
        return time.time() + ahead
