"""Results read back, held against each other, and differences with the interval they are known to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.results import SUITE, read
from ephemeralml.bench.suite.schema import validate

_RESAMPLES: Final = 2000
_SEED: Final = 20260101
_CONFIDENCE: Final = (2.5, 97.5)
_MOST_SAMPLES_BYTES: Final = 256 << 20
_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """A result file and its raw samples."""

    content: dict[str, Any]
    samples: dict[str, list[float]]

    @classmethod
    def load(cls, path: Path) -> Result:
        """Raises `ConfigurationError` for another kind or version, `BenchError` when it is damaged or incomplete."""
        content = read(path, SUITE)
        validate(content)
        beside = path.with_name(Path(content["samples"]["file"]).name)
        try:
            raw = beside.read_bytes()
        except FileNotFoundError:
            raise BenchError(f"{beside} is missing: {path} came with it", code="bench.samples") from None
        if sha256(raw).hexdigest() != content["samples"]["sha256"]:
            raise BenchError(f"{beside} is not what {path} was written with", code="bench.samples")
        with gzip.open(beside) as file:
            samples: dict[str, list[float]] = json.loads(file.read(_MOST_SAMPLES_BYTES))
        return cls(content, samples)

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def median(self, name: str) -> float | None:
        """Of a series; None where it was not measured."""
        series = self.content["series"].get(name)
        return None if series is None else float(series["p50"])


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the 95 % interval that a bootstrap of its samples gives."""

    value: float
    low: float
    high: float


def check_comparable(bare: Result, enclave: Result) -> None:
    """Raises `BenchError` naming everything in which the two differ beyond the place."""
    here: dict[str, Callable[[Result], object]] = {
        "environments": lambda result: result["environment"] in {"bare_metal", "enclave"},
        "threads": lambda result: result["threads"],
        "precision": lambda result: result["precision"],
        "model": lambda result: result["model_sha256"],
        "CPU": lambda result: result["machine"]["cpu"],
        "CPUs used": lambda result: result["machine"]["cpus_used"],
        "kernel": lambda result: result["machine"]["kernel"],
        "software": lambda result: result["software"],
        "commit": lambda result: result["commit"],
        "texts": lambda result: result["inference"]["input_texts"],
    }
    differing = [name for name, of in here.items() if of(bare) != of(enclave)]
    if differing:
        raise BenchError(
            f"the two runs differ in {', '.join(differing)}: an overhead would not be the enclave's; measure both in "
            "one run",
            code="bench.unlike",
        )


def median_of(samples: Sequence[float]) -> Interval:
    """The median."""
    return _interval(lambda a: np.median(a, axis=-1), samples)


def overhead(enclave: Sequence[float], bare: Sequence[float]) -> Interval:
    """How much more the enclave's median is, as a share of bare metal's."""
    return _interval(lambda a, b: np.median(a, axis=-1) / np.median(b, axis=-1) - 1, enclave, bare)


def added(enclave: Sequence[float], bare: Sequence[float]) -> Interval:
    """How much more the enclave's median is, in the samples' unit."""
    return _interval(lambda a, b: np.median(a, axis=-1) - np.median(b, axis=-1), enclave, bare)


def _interval(statistic: Callable[..., _Floats], *groups: Sequence[float]) -> Interval:
    """Percentile bootstrap (Efron 1979) with a fixed seed: the same samples give the same interval."""
    rng = np.random.default_rng(_SEED)
    arrays = [np.asarray(group, np.float64) for group in groups]
    drawn = [array[rng.integers(0, len(array), (_RESAMPLES, len(array)))] for array in arrays]
    low, high = np.percentile(statistic(*drawn), _CONFIDENCE)
    return Interval(float(statistic(*arrays)), float(low), float(high))
