"""The picture of case (e): time over tokens, with the line that was fitted."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

_COLOURS: Final = {"fp32": "#1f5fa8", "bf16": "#b3541e", "int8": "#2e7d4f"}
_SWEEPS: Final = {
    "length": ("One text, by its length", "tokens of the text"),
    "texts": ("Many texts, by their number", "tokens of all texts together"),
}


def draw(case: Mapping[str, Any], *, machine: str) -> bytes:
    """A PNG of 1600 × 720 pixels. Raises `ImportError` without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), dpi=160, layout="constrained")
        for axis, sweep in zip(axes, _SWEEPS, strict=True):
            _panel(axis, case, sweep)
        figure.suptitle("Time over tokens: medians, and the line fitted to them", fontsize=13)
        figure.supxlabel(machine, fontsize=8.5, color="#555555")
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        plt.close(figure)
    return picture.getvalue()


def _panel(axis: Any, case: Mapping[str, Any], sweep: str) -> None:
    title, label = _SWEEPS[sweep]
    largest = 0.0
    for precision, colour in _COLOURS.items():
        points = case["details"].get(f"{precision} {sweep}")
        if points is None:
            continue
        tokens: Sequence[int] = points["tokens"]
        fitted = [points["fit_fixed_ms"] + points["fit_ms_per_token"] * count for count in tokens]
        deviation = case["figures"][f"{precision} {sweep} deviation"]
        axis.plot(tokens, fitted, color=colour, linewidth=1.3, alpha=0.7)
        axis.plot(
            tokens,
            points["ms"],
            "o",
            color=colour,
            markersize=5.5,
            label=f"{precision}: {points['fit_ms_per_token'] * 1000:.0f} µs per token + {points['fit_fixed_ms']:.2f} ms"
            f", within {deviation:.0%}",
        )
        largest = max(largest, *points["ms"])
    axis.set_title(title, fontsize=12)
    axis.set_xlabel(label)
    axis.set_ylabel("milliseconds")
    if sweep == "texts":
        axis.loglog()
        # A line of constant cost is curved here by its fixed part; whole numbers read better than powers of ten.
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(lambda value, _: f"{value:,.0f}")
    else:
        axis.set_ylim(0, largest * 1.25)
        axis.set_xlim(left=0)
    axis.grid(visible=True, color="#dddddd", linewidth=0.7)
    axis.legend(loc="upper left", fontsize=9, frameon=False)
