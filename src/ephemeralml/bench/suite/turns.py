"""Bare metal and enclave asked the same in turns, and their answers held against each other."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import numpy as np

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.load import check_vectors
from ephemeralml.bench.peers import Vectors
from ephemeralml.bench.suite.effort import Effort
from ephemeralml.bench.suite.questions import Asked
from ephemeralml.bench.suite.record import Record
from ephemeralml.bench.timing import LEAD_SECONDS

Place = tuple[Asked, Record]
SAME: Final = ("threads", "precision", "python", "libraries")
"""Python by its first two numbers, libraries as loaded."""


def encode_in_turns(
    places: Sequence[Place], name: str, calls: list[list[str]], *, iterations: int, effort: Effort
) -> None:
    """`iterations` calls in each place, in blocks by turns, each block after discarded calls."""
    for number, size in enumerate(blocks(iterations, effort.blocks)):
        # The order is turned, so that nobody always follows the same neighbour.
        for asked, record in places if number % 2 else reversed(places):
            # Those of the first block are the ones that were asked for; of a later one the lead is enough.
            warmups = 1 if number else effort.warmups
            answer = asked.ask("encode", calls=calls, warmups=warmups, iterations=size, lead=LEAD_SECONDS)
            record.add(name, answer["ms"])


def blocks(iterations: int, number: int) -> list[int]:
    """`iterations` cut into `number` blocks of nearly the same size."""
    number = min(iterations, number)
    return [iterations // number + (index < iterations % number) for index in range(number)]


def sweeps(
    places: Sequence[Place], calls: Mapping[str, list[list[str]]], *, effort: Effort, say: Callable[[str], None]
) -> None:
    """Each series of `calls` by its name."""
    for name, those in calls.items():
        say(name)
        encode_in_turns(places, name, those, iterations=effort.sweep_iterations, effort=effort)


def vectors(asked: Asked, texts: Sequence[str]) -> Vectors:
    """What a place makes of these texts, float32."""
    answer = asked.ask("vectors", texts=list(texts))
    values = np.frombuffer(base64.b64decode(answer["float32"]), "<f4")
    return values.reshape(answer["shape"])


def compare(ours: Vectors, theirs: Vectors | None) -> dict[str, Any]:
    """SHA-256 of our vectors, least cosine and largest difference to theirs. Raises `BenchError` above 1e-5."""
    quality: dict[str, Any] = {
        "vectors_sha256": sha256(np.ascontiguousarray(ours, "<f4").tobytes()).hexdigest(),
        "least_cosine": None,
        "largest_difference": None,
    }
    if theirs is not None:
        quality["largest_difference"] = check_vectors(ours, theirs)
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        quality["least_cosine"] = float(((a * b).sum(1) / norms).min())
    return quality


def check_same(enclave: Mapping[str, Any], bare: Mapping[str, Any]) -> None:
    """Raises `BenchError` for two processes whose difference would be more than the place."""
    one, other = ({**about, "python": _minor(about["python"])} for about in (enclave, bare))
    for name in SAME:
        if one[name] != other[name]:
            raise BenchError(
                f"the enclave has {name} {one[name]}, bare metal {other[name]}: their difference would not be the "
                "enclave's; give both the same",
                code="bench.unlike",
            )


def _minor(version: str) -> str:
    return version.rpartition(".")[0]


def check_files(digests: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raises `BenchError` when what ran is not, file by file, what the signed manifest names."""
    for name, digest in expected.items():
        if digests.get(name) != digest:
            raise BenchError(f"{name} is not what the package holds: what ran came from elsewhere", code="bench.model")
