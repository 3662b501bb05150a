"""Hours of mixed load: whether memory grows, and slow answers become slower."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from ephemeralml.bench import texts
from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.deployment import Served
from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.load import MIXED_CLIENTS, Mixed
from ephemeralml.bench.timing import median, percentile, significant

_SAMPLE_SECONDS = 2.0
_LEAST_MINUTES = 5


def soak(bench: Bench, minutes: float) -> Case:
    """(i) Mixed load for a long time: whether memory grows and slow answers become slower."""
    case = Case(
        f"{minutes:g} minutes of mixed load",
        {
            "VmRSS": f"of the enclave's process, every {_SAMPLE_SECONDS:g} s; the slope is a least-squares line "
            "through the samples after the first tenth, its standard error from the residuals of means over 30 s",
            "p99": "of all requests that ended in each minute, as the clients saw them",
            "p99_drift": "median p99 of the second half's minutes over that of the first half's",
        },
    )
    with ExitStack() as stack:
        served = stack.enter_context(bench.deployment.serve())
        clients = [stack.enter_context(served.client()) for _ in range(MIXED_CLIENTS)]
        mixed = Mixed(texts.mixed_texts(bench.ours.count))
        start = time.perf_counter()
        threads = mixed.run(clients)
        try:
            resident = _watch(served, mixed, start=start, seconds=minutes * 60, say=bench.say)
        finally:
            mixed.stop.set()
            for thread in threads:
                thread.join()
        mixed.check()
    by_minute = _by_minute(mixed.answered, start=start, minutes=minutes)
    p99 = [significant(percentile(values, 99)) for values in by_minute]
    slope, error = trend(*_means(resident[len(resident) // 10 :]))
    case.figure("rss_slope_mb_per_hour", slope * 3600)
    case.figure("rss_slope_error_mb_per_hour", error * 3600)
    if minutes >= _LEAST_MINUTES and len(p99) > 1:
        # A slope within two standard errors of zero is none that these samples could tell.
        case.figure("rss_slope_in_errors", abs(slope) / error if error > 0 else 0.0)
        half = len(p99) // 2
        case.figure("p99_drift", median(p99[half:]) / median(p99[:half]))
    else:
        for name in ("rss_slope_in_errors", "p99_drift"):
            case.no_figure(name, f"less than {_LEAST_MINUTES} minutes show only the start")
    case.add("request", [latency for _, latency in mixed.answered])
    case.details |= {
        "requests": len(mixed.answered),
        "p99_ms_by_minute": p99,
        "rss_mb": [significant(value, 6) for _, value in resident],
    }
    return case


def trend(seconds: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope of the least-squares line and its standard error. Raises `BenchError` for fewer than three points."""
    x, y = np.asarray(seconds, float), np.asarray(values, float)
    if len(x) < 3:
        raise BenchError("too few samples for a trend", code="bench.soak")
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    residuals = y - y.mean() - slope * (x - x.mean())
    return slope, float(np.sqrt((residuals**2).sum() / (len(x) - 2) / spread))


def _means(samples: Sequence[tuple[float, float]], *, seconds: float = 30.0) -> tuple[list[float], list[float]]:
    """Means over stretches of time: neighbouring samples of memory say the same thing, and would feign precision."""
    if not samples:
        return [], []
    stretch = min(seconds, (samples[-1][0] - samples[0][0]) / 10)
    groups: dict[int, list[tuple[float, float]]] = {}
    for sample in samples:
        groups.setdefault(int((sample[0] - samples[0][0]) / stretch) if stretch else 0, []).append(sample)
    return [float(np.mean([t for t, _ in group])) for group in groups.values()], [
        float(np.mean([v for _, v in group])) for group in groups.values()
    ]


def _watch(
    served: Served, mixed: Mixed, *, start: float, seconds: float, say: Callable[[str], None]
) -> list[tuple[float, float]]:
    samples: list[tuple[float, float]] = []
    minute = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        samples.append((elapsed, served.memory()["VmRSS"]))
        if int(elapsed // 60) > minute:
            minute = int(elapsed // 60)
            say(f"minute {minute}: {len(mixed.answered)} requests, {samples[-1][1]:.1f} MB resident")
        if mixed.stop.wait(min(_SAMPLE_SECONDS, seconds / 50)):
            break
    return samples


def _by_minute(answered: Sequence[tuple[float, float]], *, start: float, minutes: float) -> list[list[float]]:
    whole = max(1, int(minutes))
    found: list[list[float]] = [[] for _ in range(whole)]
    for end, latency in answered:
        found[min(int((end - start) // 60), whole - 1)].append(latency)
    return [values for values in found if values]
