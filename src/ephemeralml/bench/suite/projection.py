"""What to expect on Nitro before anybody ran it there: local measurements with vsock's published figures put in.

A model, not a measurement, and labelled so. What has no published figure is not projected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ephemeralml.bench.suite.compare import Result

SOURCE: Final = "Lutsch et al. 2025, raw data: round trips on c6in.8xlarge, streams on c6i.2xlarge with one connection"
RTT_MS: Final[Mapping[str, float]] = {"64b": 0.078, "64kb": 0.146, "1mb": 3.4}
IN_MBPS: Final = 10_500.0
OUT_MBPS: Final = 1_900.0


@dataclass(frozen=True, slots=True)
class Projected:
    """A figure as measured here, as expected there, and how one comes from the other."""

    what: str
    unit: str
    local: float | None
    nitro: float | None
    how: str


def project(enclave: Result) -> list[Projected]:
    """For a measured result of the local platform."""
    rows = [
        Projected(
            f"round trip, {size.upper().replace('B', ' B').replace('K ', ' K').replace('M ', ' M')}",
            "ms",
            enclave.median(f"rtt/direct/{size}"),
            RTT_MS.get(size),
            "published" if size in RTT_MS else "nobody published this size",
        )
        for size in ("64b", "1kb", "64kb", "1mb")
    ]
    rows += [
        Projected("stream into the enclave", "Mbit/s", enclave.median("stream/direct/in"), IN_MBPS, "published"),
        Projected("stream out of the enclave", "Mbit/s", enclave.median("stream/direct/out"), OUT_MBPS, "published"),
    ]
    fetch = enclave.median("stage/fetch")
    wire = enclave["memory"]["model_size_mb"] * 8 / IN_MBPS * 1000
    rows.append(
        Projected(
            "model fetch",
            "ms",
            fetch,
            None if fetch is None else max(fetch, wire),
            "the slower of what the processes take here and what the bytes take at the published rate",
        )
    )
    sealed, here = enclave.median("end_to_end"), enclave.median("rtt/direct/1kb")
    rows.append(
        Projected(
            "sealed request of one text, end to end",
            "ms",
            sealed,
            None if sealed is None or here is None else sealed - here + RTT_MS["64kb"],
            "the local round trip of 1 KB taken out, the published one of 64 KB put in: more than a request needs. "
            "The same CPU is assumed, and that relay and client do not share it",
        )
    )
    for name, series in (("key release", "stage/key_release"), ("cold start", "cold_start/first_answer")):
        rows.append(
            Projected(
                name,
                "ms",
                enclave.median(series),
                None,
                "not projected: KMS over a network, and the boot of an image, were not measured",
            )
        )
    return rows
