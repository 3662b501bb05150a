"""Cost over length and over number of texts: whether it is linear in tokens, without cliffs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ephemeralml.bench import texts
from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.timing import Call, interleave, median, significant

_LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_EACH = 32


@dataclass(frozen=True, slots=True)
class Fit:
    """milliseconds = `fixed` + `per_token` × tokens; `deviation` is the largest relative one, at `worst` tokens."""

    fixed: float
    per_token: float
    deviation: float
    worst: int


def fit_line(tokens: Sequence[int], milliseconds: Sequence[float]) -> Fit:
    """The line with the least relative errors, so that short texts count as much as long ones."""
    x, y = np.asarray(tokens, float), np.asarray(milliseconds, float)
    (fixed, slope), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)
    relative = np.abs((fixed + slope * x) / y - 1)
    worst = int(relative.argmax())
    return Fit(float(fixed), float(slope), float(relative[worst]), int(x[worst]))


def cost_per_token(bench: Bench) -> Case:
    """(e) One text of 8 to 256 tokens, and 1 to 512 texts of 32 tokens, in every precision."""
    ours, effort = bench.ours, bench.effort
    longest = ours.fp32.max_sequence_length
    each = min(_EACH, longest)
    case = Case(
        "Cost per token over length and number of texts",
        {
            "… length": "Encoder.encode of one text of that many tokens, from a Python string to its vector",
            "… texts": f"Encoder.encode of so many texts of {each} tokens each, from Python strings to their vectors",
        },
    )
    by_length = {length: texts.exact_text(length, ours.count) for length in _LENGTHS if length <= longest}
    counts = [count for count in _COUNTS if count <= effort.most_texts]
    many = texts.exact_texts(max(counts), each, ours.count)
    for precision, encoder in ours.encoders.items():
        bench.say(f"{precision}: one text of 8 to {max(by_length)} tokens")
        lengths: dict[str, Call] = {str(length): partial(encoder.encode, text) for length, text in by_length.items()}
        _sweep(case, f"{precision} length", interleave(lengths, rounds=effort.scaling_rounds, settle=0.0), each=1)
        bench.say(f"{precision}: 1 to {max(counts)} texts of {each} tokens")
        lists: dict[str, Call] = {str(count): partial(encoder.encode, many[:count]) for count in counts}
        rounds = max(3, effort.scaling_rounds // 2)
        _sweep(case, f"{precision} texts", interleave(lists, rounds=rounds, warmups=1, settle=0.0), each=each)
    for precision, reason in ours.absent.items():
        for sweep in ("length", "texts"):
            case.no_figure(f"{precision} {sweep} deviation", reason)
    return case


def _sweep(case: Case, name: str, samples: dict[str, list[float]], *, each: int) -> None:
    points = {int(label): median(values) for label, values in samples.items()}
    for label, values in samples.items():
        case.add(f"{name} {label}", values)
    tokens = [label * each for label in points]
    fit = fit_line(tokens, list(points.values()))
    case.figure(f"{name} deviation", fit.deviation)
    case.figure(f"{name} us per token", fit.per_token * 1000)
    case.details[name] = {
        "tokens": tokens,
        "ms": [significant(value) for value in points.values()],
        "fit_fixed_ms": significant(fit.fixed),
        "fit_ms_per_token": significant(fit.per_token),
        "worst_at_tokens": fit.worst,
    }
