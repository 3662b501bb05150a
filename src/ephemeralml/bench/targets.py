"""What the project wants to reach, and whether a result does: missed is said as plainly as met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ephemeralml.bench.peers import INCUMBENT


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of one case and the bound it must keep."""

    case: str
    what: str
    figure: str
    relation: Literal["≤", "≥"]
    bound: float
    unit: str = ""

    def judge(self, cases: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row of the result, `met` null with a reason where there is no figure; None when the case did not run."""
        if self.case not in cases:
            return None
        case = cases[self.case]
        value = case["figures"].get(self.figure)
        met = None if value is None else value <= self.bound if self.relation == "≤" else value >= self.bound
        return {
            "case": self.case,
            "what": self.what,
            "figure": self.figure,
            "target": f"{self.relation} {self.bound:g}{' ' + self.unit if self.unit else ''}",
            "value": value,
            "unit": self.unit,
            "met": met,
            "reason": None if value is not None else case["absent"].get(self.figure, "not measured"),
        }


TARGETS: Final = (
    Target("a", "Encoder.encode over the bare engine call", "encode_over_engine", "≤", 1.15, "×"),
    Target("a", "sentence-transformers over Encoder.encode", f"{INCUMBENT} over encode", "≥", 4, "×"),
    Target("b", "sealed less in process, p50", "added_p50_ms", "≤", 0.5, "ms"),
    Target("b", "sealed less in process, p99", "added_p99_ms", "≤", 1.5, "ms"),
    Target("c", "fp32 against sentence-transformers", f"ours fp32 against {INCUMBENT}", "≥", 2.5, "×"),
    Target("c", "bf16 against sentence-transformers", f"ours bf16 against {INCUMBENT}", "≥", 4, "×"),
    Target("c", "int8 against sentence-transformers", f"ours int8 against {INCUMBENT}", "≥", 6, "×"),
    Target("d", "16 clients: share of the engine's best batches", "share_of_engine", "≥", 0.85),
    Target("e", "largest deviation from linear, length", "fp32 length deviation", "≤", 0.15),
    Target("e", "largest deviation from linear, texts", "fp32 texts deviation", "≤", 0.15),
    Target("f", "share of the fp32 limit", "share_fp32", "≥", 0.9),
    Target("f", "share of the bf16 limit", "share_bf16", "≥", 0.65),
    Target("f", "share of the int8 limit", "share_int8", "≥", 0.45),
    Target("g", "peak RSS of the enclave, fp32", "peak_mb_fp32", "≤", 230, "MB"),
    Target("g", "peak RSS of the enclave, int8", "peak_mb_int8", "≤", 130, "MB"),
    Target("h", "spawn to first verified answer, median", "first_answer_ms", "≤", 1200, "ms"),
    Target("h", "fetch, decrypt and load, median", "open_ms", "≤", 200, "ms"),
    Target("j", "the feed from S3 against boto3's own download", "source_over_boto3", "≥", 0.8, "×"),
    Target("i", "RSS slope, in its standard errors", "rss_slope_in_errors", "≤", 2),
    Target("i", "p99 of the second half over the first", "p99_drift", "≤", 1.2, "×"),
)


def judge(cases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every target whose case ran."""
    return [row for target in TARGETS if (row := target.judge(cases)) is not None]
