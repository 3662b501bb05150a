"""What one check found: a state, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ephemeralml.texts import printable


class State(StrEnum):
    """`UNKNOWN` is no good sign: something that a run needs could not be looked at."""

    OK = "ok"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result; `fix` is a command or a sentence, empty when there is nothing to do.

    Both are made `printable`: they quote what AWS, manifests, images and settings say.
    """

    check: str
    state: State
    reason: str
    fix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))
        object.__setattr__(self, "fix", printable(self.fix))

    @classmethod
    def ok(cls, check: str, reason: str) -> Finding:
        """What a run needs of it is there."""
        return cls(check, State.OK, reason)

    @classmethod
    def failed(cls, check: str, reason: str, fix: str) -> Finding:
        """A run would fail on it."""
        return cls(check, State.FAILED, reason, fix)

    @classmethod
    def not_applicable(cls, check: str, reason: str) -> Finding:
        """A run does not need it."""
        return cls(check, State.NOT_APPLICABLE, reason)

    @classmethod
    def unknown(cls, check: str, reason: str, fix: str) -> Finding:
        """A run needs it, and whether it is good could not be found out."""
        return cls(check, State.UNKNOWN, reason, fix)


def ready(findings: Iterable[Finding]) -> bool:
    """Whether a run would work: nothing failed, and nothing a run needs is unknown."""
    return all(finding.state in {State.OK, State.NOT_APPLICABLE} for finding in findings)
