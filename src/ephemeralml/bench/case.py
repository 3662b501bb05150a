"""What every case gives: series of samples, figures made of them, and in words where each begins and ends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ephemeralml.bench.deployment import Deployment
from ephemeralml.bench.ours import Ours
from ephemeralml.bench.peers import Peers, Setting
from ephemeralml.bench.peers import load as load_peers
from ephemeralml.bench.timing import significant, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of each case is done; `quick` shows that it works and roughly how fast, no more."""

    latency_rounds: int = 200
    sealed_rounds: int = 1000
    list_rounds: int = 9
    window_seconds: float = 4.0
    windows: int = 5
    scaling_rounds: int = 15
    most_texts: int = 512
    arithmetic_rounds: int = 15
    requests: int = 1000
    cold_starts: int = 7

    @classmethod
    def quick(cls) -> Effort:
        """A few rounds of everything."""
        return cls(
            latency_rounds=20, sealed_rounds=100, list_rounds=2, window_seconds=1.0, windows=2, scaling_rounds=3,
            most_texts=64, arithmetic_rounds=3, requests=200, cold_starts=2,
        )  # fmt: skip


@dataclass(slots=True)
class Case:
    """One case of the result file. A series or figure that does not exist is null, and `absent` has the reason.

    `neighbours` is the share of all CPUs that others took in the second before the case and the one after it.
    """

    title: str
    boundary: dict[str, str]
    series: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    neighbours: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, samples: list[float], unit: str = "ms") -> None:
        """Statistics of a series."""
        self.series[name] = summarise(samples).to_json(unit)

    def figure(self, name: str, value: float) -> None:
        """A number made of series, four significant digits."""
        self.figures[name] = significant(value)

    def no_series(self, name: str, reason: str) -> None:
        """A series that could not be measured here."""
        self.series[name] = None
        self.absent[name] = reason

    def no_figure(self, name: str, reason: str) -> None:
        """A figure that could not be measured here."""
        self.figures[name] = None
        self.absent[name] = reason

    def to_json(self) -> dict[str, Any]:
        """As the schema wants it."""
        return asdict(self)


class Bench:
    """What cases share, each made when first asked for; a context manager that cleans up."""

    def __init__(self, model: Path, *, effort: Effort, say: Callable[[str], None]) -> None:
        self.model = model
        self.effort = effort
        self.say = say
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def scratch(self) -> Path:
        """A folder that goes with the run."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ephemeralml-bench-")))

    @cached_property
    def ours(self) -> Ours:
        """Our encoders."""
        return Ours.load(self.model)

    @cached_property
    def peers(self) -> Peers:
        """The others. Large: cases that do not compare leave them unloaded."""
        return load_peers(Setting(self.model, self.ours.fp32.spec, self.scratch), say=self.say)

    def deployment_in(self, precision: str) -> Deployment:
        """One more, of a package in this precision; it lasts until the run ends."""
        self.say(f"starting a KMS and packing the model in {precision}")
        folder = self.scratch / precision
        folder.mkdir()
        return self._stack.enter_context(Deployment(folder, self.model, precision=precision))

    @cached_property
    def deployment(self) -> Deployment:
        """Owner, KMS and an fp32 package, ready to serve."""
        return self.deployment_in("fp32")
