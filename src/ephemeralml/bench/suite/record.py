"""What one environment's run has gathered, and the result file made of it: nothing is left out without a reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.results import SUITE, VERSIONS
from ephemeralml.bench.suite.boundaries import words_for
from ephemeralml.bench.suite.schema import validate
from ephemeralml.bench.suite.transport import SIZES
from ephemeralml.bench.timing import percentile, significant, summarise

NAMES: Final = {"bare_metal": "baseline", "enclave": "enclave"}
"""Of an environment's files: ``baseline_results.json``, ``enclave_samples.json.gz``."""

_STAGES: Final = {
    "attestation_ms": "stage/attestation",
    "kms_key_release_ms": "stage/key_release",
    "model_fetch_ms": "stage/fetch",
    "model_decrypt_ms": "stage/decrypt",
    "model_deserialise_ms": "stage/deserialise",
    "tokenizer_ms": "stage/tokenizer",
    "cold_start_total_ms": "cold_start/first_answer",
}
_LOAD: Final = ("stage/deserialise", "stage/tokenizer")
_NONE_ON_BARE_METAL: Final = frozenset({"stage/attestation", "stage/key_release", "stage/decrypt"})
_ENCLAVE_ONLY: Final = (
    *("end_to_end", "session/set_up", "session/document", "receipts/verify", "part/open", "part/tokenise"),
    *("part/queue", "part/model", "part/seal", "part/receipt"),
)


@dataclass(slots=True)
class Record:
    """Samples by name, figures, and why others are absent."""

    environment: str
    platform: str
    kind: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    neighbours: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, samples: list[float], unit: str = "ms") -> None:
        """More samples of a series."""
        self.samples.setdefault(name, []).extend(samples)
        self.units[name] = unit

    def require(self) -> None:
        """Raises `BenchError` naming the first thing that has neither samples nor a reason why there are none."""
        wanted = [*_STAGES.values(), "inference", *(f"rtt/direct/{size}" for size in SIZES)]
        wanted += ["stream/direct/in", "stream/direct/out"]
        if self.environment == "enclave":
            wanted += _ENCLAVE_ONLY
        else:
            wanted = [name for name in wanted if name not in _NONE_ON_BARE_METAL and "/direct/" not in name]
        for name in wanted:
            if not self.samples.get(name) and name not in self.absent:
                raise BenchError(f"{name} was not run, and nothing says why: no result is written", code="bench.stage")
        for name, samples in self.samples.items():
            if min(samples) <= 0:
                raise BenchError(f"{name} has a sample that is not above 0: it was not run", code="bench.stage")

    def _median(self, name: str) -> float | None:
        samples = self.samples.get(name)
        return significant(percentile(samples, 50)) if samples else None

    def sections(self) -> dict[str, Any]:
        """The parts of the result file that samples decide."""
        load = [self._median(name) for name in _LOAD]
        rtt = {f"rtt_{size}_ms": self._median(f"rtt/direct/{size}") for size in SIZES}
        ways = {way: self._median(f"stream/direct/{way}") for way in ("in", "out")}
        present = [value for value in ways.values() if value is not None]
        latency = summarise(self.samples["inference"]).to_json("ms")
        per_second = len(self.samples["inference"]) / sum(self.samples["inference"]) * 1000
        return {
            "environment": self.environment,
            "platform": self.platform,
            "kind": self.kind,
            "stages": {
                **{name: self._median(series) for name, series in _STAGES.items()},
                "model_load_ms": None if None in load else significant(sum(value for value in load if value)),
            },
            "latency_ms": {name: value for name, value in latency.items() if name not in {"unit", "count"}},
            "throughput_inferences_per_sec": significant(per_second),
            "memory": self.memory,
            "vsock": {
                **rtt,
                "throughput_mbps": min(present) if present else None,
                "throughput_in_mbps": ways["in"],
                "throughput_out_mbps": ways["out"],
            },
            "series": {
                name: summarise(samples).to_json(self.units[name]) for name, samples in sorted(self.samples.items())
            },
            "figures": self.figures,
            "quality": self.quality,
            "controls": self.controls,
            "boundary": words_for(self.environment, self.platform, [*self.samples, *self.figures]),
            "absent": self.absent,
            "neighbours": self.neighbours,
        }


def to_files(record: Record, about: Mapping[str, Any], *, texts: list[str], warmups: int) -> dict[str, bytes]:
    """The result and its samples as files by name. Raises `BenchError` for what is incomplete or not to the schema."""
    record.require()
    stem = NAMES[record.environment]
    # Without a time inside, equal samples give equal files.
    raw = gzip.compress(json.dumps(record.samples).encode(), mtime=0)
    sections = record.sections()
    inference = {
        "input_texts": texts,
        "num_iterations": len(record.samples["inference"]),
        "num_warmups": warmups,
        "latency_ms": sections.pop("latency_ms"),
        "throughput_inferences_per_sec": sections.pop("throughput_inferences_per_sec"),
    }
    result: dict[str, Any] = {
        "schema": SUITE,
        "schema_version": VERSIONS[SUITE],
        **about,
        **sections,
        "inference": inference,
        "samples": {"file": f"{stem}_samples.json.gz", "sha256": sha256(raw).hexdigest()},
    }
    validate(result)
    text = json.dumps(result, indent=1, ensure_ascii=False).encode() + b"\n"
    return {f"{stem}_samples.json.gz": raw, f"{stem}_results.json": text}
