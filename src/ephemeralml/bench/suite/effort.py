"""How much of each metric is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """`iterations` timed calls after `warmups` discarded ones; the rest follows from whether the run is a quick one."""

    iterations: int = 100
    warmups: int = 3
    quick: bool = False

    @property
    def blocks(self) -> int:
        """Turns in which the places are measured: a slower minute is everybody's."""
        return min(self.iterations, 4 if self.quick else 10)

    @property
    def cold_starts(self) -> int:
        """Of the host with its enclave, and of the bare-metal process."""
        return 2 if self.quick else 7

    @property
    def loads(self) -> int:
        """Fetch, decrypt, deserialise, tokenizer."""
        return 2 if self.quick else 7

    @property
    def sweep_iterations(self) -> int:
        """Calls of each length and batch size."""
        return max(5, self.iterations // (10 if self.quick else 3))

    @property
    def window_seconds(self) -> float:
        """Of so many clients at once."""
        return 0.7 if self.quick else 4.0

    @property
    def windows(self) -> int:
        """For each number of clients."""
        return 2 if self.quick else 3

    @property
    def stream_bytes(self) -> int:
        """Of one stream."""
        return (32 if self.quick else 256) << 20
