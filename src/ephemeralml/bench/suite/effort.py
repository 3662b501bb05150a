"""How much of each metric is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """`iterations` timed calls after `warmups` discarded ones; the rest follows from whether the run is a quick one.

    On an `emulated` processor a call takes a hundred times as long and says nothing of a real one's: few are made.
    """

    iterations: int = 100
    warmups: int = 3
    quick: bool = False
    emulated: bool = False

    @classmethod
    def of(cls, *, iterations: int | None, warmups: int, quick: bool, emulated: bool) -> Effort:
        """With the usual number of `iterations` where none is given."""
        usual = (5 if quick else 20) if emulated else (20 if quick else 100)
        return cls(iterations=iterations or usual, warmups=warmups, quick=quick, emulated=emulated)

    @property
    def blocks(self) -> int:
        """Turns in which the places are measured: a slower minute is everybody's."""
        if self.emulated:
            # Nobody to take turns with.
            return 1
        return min(self.iterations, 4 if self.quick else 10)

    @property
    def cold_starts(self) -> int:
        """Of the host with its enclave, and of the bare-metal process."""
        if self.emulated:
            return 1 if self.quick else 3
        return 2 if self.quick else 7

    @property
    def loads(self) -> int:
        """Fetch, decrypt, deserialise, tokenizer."""
        if self.emulated:
            return 1 if self.quick else 3
        return 2 if self.quick else 7

    @property
    def sweep_iterations(self) -> int:
        """Calls of each length and batch size."""
        if self.emulated:
            return 2 if self.quick else 5
        return max(5, self.iterations // (10 if self.quick else 3))

    @property
    def window_seconds(self) -> float:
        """Of so many clients at once."""
        if self.emulated:
            return 5.0 if self.quick else 20.0
        # Of a handful of calls nobody wants a rate.
        return min(0.7, self.iterations / 20) if self.quick else 4.0

    @property
    def windows(self) -> int:
        """For each number of clients."""
        return 2 if self.quick else 3

    @property
    def stream_bytes(self) -> int:
        """Of one stream."""
        if self.emulated:
            return (4 if self.quick else 32) << 20
        return (32 if self.quick else 256) << 20

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of one text."""
        return (8, 32) if self.emulated else (8, 16, 32, 64, 128, 256)

    @property
    def batches(self) -> tuple[int, ...]:
        """Texts in one call."""
        return (1, 2) if self.emulated else (1, 2, 4, 8, 16, 32, 64)

    @property
    def clients(self) -> tuple[int, ...]:
        """At once."""
        return (1, 2, 4) if self.emulated else (1, 2, 4, 8, 16, 32, 64)
