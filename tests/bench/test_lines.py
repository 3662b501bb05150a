"""Fits and trends of points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.scaling import fit_line
from ephemeralml.bench.soak import _means, trend


def test_a_line_is_found_without_deviation() -> None:
    tokens = [8, 64, 256]
    fit = fit_line(tokens, [1.5 + 0.1 * count for count in tokens])
    assert (fit.fixed, fit.per_token) == pytest.approx((1.5, 0.1))
    assert fit.deviation < 1e-9


def test_a_cliff_is_the_largest_deviation() -> None:
    tokens = [8, 16, 32, 64, 128, 256]
    times = [0.1 * count for count in tokens]
    times[4] *= 2
    fit = fit_line(tokens, times)
    assert fit.deviation > 0.3
    assert fit.worst == 128


def test_a_trend_and_its_error() -> None:
    seconds = np.arange(100.0)
    slope, error = trend(seconds.tolist(), (200 + 0.5 * seconds).tolist())
    assert slope == pytest.approx(0.5)
    assert error < 1e-9


def test_noise_has_no_trend_beyond_its_error() -> None:
    noise = np.random.default_rng(3).standard_normal(400)
    slope, error = trend(list(range(400)), noise.tolist())
    # Of white noise of variance 1 over 0 … 399 s: 1 / sqrt(sum of squared distances from the middle).
    assert error == pytest.approx(1 / np.sqrt(((np.arange(400) - 199.5) ** 2).sum()), rel=0.1)
    assert abs(slope) < 3 * error


def test_too_few_points_have_no_trend() -> None:
    with pytest.raises(BenchError, match="too few"):
        trend([1.0, 2.0], [1.0, 2.0])


def test_samples_are_averaged_over_stretches() -> None:
    seconds, values = _means([(float(second), float(second % 30)) for second in range(600)])
    assert len(seconds) == 20
    assert set(values) == {14.5}
