"""The report's pictures, drawn to be read at the width of a README."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from ephemeralml.bench.suite.compare import Result

_BARE, _ENCLAVE, _THIRD, _GREY = "#b3541e", "#1f5fa8", "#2e7d4f", "#555555"
_WIDE: Final = (9.0, 4.2)
_BOOT: Final = ("manifest", "attestation", "key_release", "fetch_and_decrypt", "load")


def draw(bare: Result | None, enclave: Result) -> dict[str, tuple[bytes, str]]:
    """PNG and words of each picture by its name. Raises `ImportError` without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    drawers: dict[str, tuple[Callable[[Any, Result | None, Result], None], str]] = {
        "latency": (_latency, "Distribution of the latency of one text, bare metal and enclave"),
        "cold-start": (_cold_start, "Cold start by stage, from the launch to the first verified answer"),
        "clients": (_clients, "Answers a second over the number of clients"),
        "length": (_length, "Latency over the tokens of the text"),
    }
    style = {
        "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.7, "axes.axisbelow": True,
    }  # fmt: skip
    pictures = {}
    with mpl.rc_context(style):
        for name, (drawer, words) in drawers.items():
            pictures[name] = _picture(drawer, bare, enclave), words
    return pictures


def _picture(drawer: Callable[[Any, Result | None, Result], None], bare: Result | None, enclave: Result) -> bytes:
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axis = plt.subplots(figsize=_WIDE, dpi=160, layout="constrained")
    drawer(axis, bare, enclave)
    about = f"{enclave['model']}, {enclave['hardware']}, {enclave['threads']} threads, {enclave['precision']}"
    figure.supxlabel(f"{about}; platform {enclave['platform']}, {enclave['kind']}", fontsize=8.5, color=_GREY)
    content = io.BytesIO()
    # No time in it: the same results give the same bytes.
    figure.savefig(content, format="png", metadata={"Software": None})
    plt.close(figure)
    return content.getvalue()


def _latency(axis: Any, bare: Result | None, enclave: Result) -> None:
    series: Mapping[str, tuple[list[float] | None, str]] = {
        "bare metal": (None if bare is None else bare.samples["inference"], _BARE),
        "inside the enclave": (enclave.samples["inference"], _ENCLAVE),
        "sealed, end to end": (enclave.samples["end_to_end"], _THIRD),
    }
    highest = 0.0
    for name, (samples, colour) in series.items():
        if samples is None:
            continue
        ordered = np.sort(samples)
        share = np.arange(1, len(ordered) + 1) / len(ordered) * 100
        axis.step(
            ordered, share, where="post", color=colour, linewidth=2, label=f"{name}: p50 {np.median(ordered):.2f} ms"
        )
        highest = max(highest, float(np.percentile(ordered, 99)))
    axis.set_title("One text: how many calls take at most so long", pad=32)
    axis.set_xlabel("milliseconds (cut at the 99th percentile)")
    axis.set_ylabel("% of calls")
    axis.set_ylim(0, 102)
    axis.set_xlim(left=0, right=highest * 1.05)
    # Above, where no curve comes however narrow the distributions are.
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=10.5, frameon=False)


def _cold_start(axis: Any, bare: Result | None, enclave: Result) -> None:
    boot = {name: enclave.median(f"boot/{name}") or 0.0 for name in _BOOT}
    ready, attested, first = (
        enclave.median(f"cold_start/{name}") or 0.0 for name in ("ready", "attested", "first_answer")
    )
    start = max(0.0, ready - sum(boot.values()))
    stages = {"processes start, relay listens": start}
    stages |= {name.replace("_", " "): value for name, value in boot.items()}
    stages |= {"client attests": attested - ready, "first verified answer": first - attested}
    at = 0.0
    for row, value in enumerate(stages.values()):
        axis.barh(row, value, left=at, color=_ENCLAVE if row not in {0, len(stages) - 2, len(stages) - 1} else _THIRD)
        axis.text(
            at + value + first * 0.008,
            row,
            f"{value:,.0f} ms" if value >= 1 else f"{value:.1f} ms",
            va="center",
            fontsize=9.5,
        )
        at += value
    axis.set_yticks(range(len(stages)), list(stages))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlim(0, max(at, first) * 1.12)
    also = (
        ""
        if bare is None
        else f"; bare metal to its first vector {bare.median('cold_start/first_answer') or 0:,.0f} ms"
    )
    axis.set_title(f"Cold start: {first:,.0f} ms{also}")
    axis.set_xlabel("milliseconds since the launch (medians)")


def _clients(axis: Any, bare: Result | None, enclave: Result) -> None:
    del bare
    numbers = _numbers(enclave, "clients_rate/")
    rates = [float(enclave.median(f"clients_rate/{number}") or 0) for number in numbers]
    axis.plot(numbers, rates, "o-", color=_ENCLAVE, linewidth=2)
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.set_ylim(0, max(rates) * 1.2)
    for number, rate in zip(numbers, rates, strict=True):
        axis.annotate(
            f"{rate:,.0f}", (number, rate), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=9.5
        )
    axis.set_title("Verified answers a second, one text a request")
    axis.set_xlabel("clients at once")
    axis.set_ylabel("answers / s")


def _length(axis: Any, bare: Result | None, enclave: Result) -> None:
    highest = 0.0
    for name, result, colour, mark in (
        ("bare metal", bare, _BARE, "s--"),
        ("inside the enclave", enclave, _ENCLAVE, "o-"),
    ):
        if result is None:
            continue
        numbers = _numbers(result, "length/")
        values = [float(result.median(f"length/{number}") or 0) for number in numbers]
        axis.plot(numbers, values, mark, color=colour, linewidth=1.8, markersize=6, label=name)
        highest = max(highest, *values)
    axis.set_xlim(left=0)
    axis.set_ylim(0, highest * 1.1)
    axis.set_title("One text by its length")
    axis.set_xlabel("tokens")
    axis.set_ylabel("milliseconds (median)")
    axis.legend(loc="upper left", frameon=False)


def _numbers(result: Result, prefix: str) -> list[int]:
    return sorted(int(name.removeprefix(prefix)) for name in result["series"] if name.startswith(prefix))
