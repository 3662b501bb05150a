"""What Prometheus reads: every family explained, buckets that only grow, counts that agree."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.gateway.metrics import Metrics

_SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+')


@given(st.lists(st.floats(0, 100), max_size=30))
def test_the_histogram_counts_every_request(seconds: list[float]) -> None:
    metrics = Metrics()
    for value in seconds:
        metrics.answered("/embed", 200, value)
    text = metrics.render(in_flight=0, attestations=0)
    buckets = [int(count) for count in re.findall(r'_bucket\{endpoint="/embed",le="[^"]*"\} (\d+)', text)]
    assert buckets == sorted(buckets)
    assert buckets[-1:] == ([len(seconds)] if seconds else [])
    for bound, count in re.findall(r'le="([0-9.]+)"\} (\d+)', text):
        assert int(count) == sum(value <= float(bound) for value in seconds)


def test_every_line_is_of_the_format() -> None:
    metrics = Metrics()
    metrics.answered("/v1/receipts/{id}", 200, 0.004)
    metrics.answered("/v1/embeddings", 503, 1.5, code="chain.untrusted_root")
    metrics.read(17)
    lines = metrics.render(in_flight=3, attestations=8).splitlines()
    assert "ephemeralml_gateway_tokens_total 17" in lines
    assert 'ephemeralml_gateway_errors_total{code="chain.untrusted_root"} 1' in lines
    assert "ephemeralml_gateway_in_flight 3" in lines
    for line in lines:
        assert re.fullmatch(r"# (HELP|TYPE) \S+ .+", line) or _SAMPLE.fullmatch(line), line
    helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert helped == {line.split()[2] for line in lines if line.startswith("# TYPE")}


def test_a_relay_that_makes_up_codes_makes_few_series() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.answered("/embed", 502, 0.1, code=f"alert.{number}")
    assert metrics.render(in_flight=0, attestations=0).count("errors_total{") <= 65
