"""What an enclave tells its host of its work: whole numbers about everybody since its boot, nothing about anybody.

The host is hostile, so this says hardly more than a relay sees that looks at frames: see docs/operate.md. The enclave
may be hostile to the host as well, or be another tenant's: what is not exactly this is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ephemeralml.codec import cbor
from ephemeralml.session.hostlink import Ask, malformed

INTERVAL_SECONDS: Final = 10
"""From one count to the next, whatever happens meanwhile and whenever the host answers: when it comes says nothing."""
STAGES: Final = ("evidence", "queue", "engine", "request")
"""The security module's document for a handshake; a request's wait for the engine; the engine's runs that it had a part
in; all of it, from its record to the answer's."""
BOUNDS_MS: Final = tuple(2**exponent for exponent in range(15))
"""Upper bounds of a stage's buckets, 1 ms to 16 s, inclusive; one more bucket has what took longer. Their width is what
a host learns at most of a request that was alone in an interval; there is no sum of times, which would be its time."""
REFUSALS: Final = ("busy", "request", "enclave", "evidence")
"""Why: a limit was met; the request will never do; the enclave failed on it; there was no evidence to show."""

_BOOT_BYTES: Final = 16
# What a float64 counts exactly: Prometheus has no other number.
_MOST: Final = 2**53
_KEYS: Final = frozenset({"ask", "boot", "sessions_open", "in_work", "sessions", "refused", "stages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`boot` is the id in the evidence. `sessions_open` and `in_work` are of this moment, the rest since the boot.

    `refused` is in the order of `REFUSALS`, `stages` in that of `STAGES`; each of them has a count for each bucket.
    """

    boot: bytes
    sessions_open: int
    in_work: int
    sessions: int
    refused: tuple[int, ...]
    stages: tuple[tuple[int, ...], ...]

    @property
    def counters(self) -> tuple[int, ...]:
        """All that only grows."""
        return (self.sessions, *self.refused, *(count for stage in self.stages for count in stage))

    def to_bytes(self) -> bytes:
        """The question of the host link that tells it."""
        return cbor.encode(
            {
                "ask": int(Ask.REPORT),
                "boot": self.boot,
                "sessions_open": self.sessions_open,
                "in_work": self.in_work,
                "sessions": self.sessions,
                "refused": list(self.refused),
                "stages": [list(stage) for stage in self.stages],
            }
        )

    @classmethod
    def from_map(cls, value: dict[int | str, cbor.Value]) -> Report:
        """Raises `TransportError` for anything but whole numbers below 2^53, exactly as many as there are."""
        if set(value) != _KEYS or not isinstance(boot := value["boot"], bytes) or len(boot) != _BOOT_BYTES:
            malformed("report")
        return cls(
            boot=boot,
            sessions_open=_count(value["sessions_open"]),
            in_work=_count(value["in_work"]),
            sessions=_count(value["sessions"]),
            refused=_counts(value["refused"], len(REFUSALS)),
            stages=tuple(_counts(stage, len(BOUNDS_MS) + 1) for stage in _list(value["stages"], len(STAGES))),
        )


def _count(value: cbor.Value) -> int:
    # A bool is an int, too.
    if type(value) is not int or not 0 <= value < _MOST:
        malformed("report")
    return value


def _list(value: cbor.Value, length: int) -> list[cbor.Value]:
    if not isinstance(value, list) or len(value) != length:
        malformed("report")
    return value


def _counts(value: cbor.Value, length: int) -> tuple[int, ...]:
    return tuple(map(_count, _list(value, length)))
