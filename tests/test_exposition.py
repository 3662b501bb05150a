"""Metrics as text: what is written is read back, whatever the labels hold, and nothing else is read."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import CodecError
from ephemeralml.exposition import MAX_BYTES, ByCode, Family, histogram, read, render, sample

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53)
GAUGE = Family("a_thing", "gauge", "A thing.", ("name",))
TIMES = Family("a_seconds", "histogram", "Times.", ("stage",))


@given(st.dictionaries(st.text(max_size=50), FINITE, min_size=1))
def test_what_is_written_is_read_back(values: dict[str, float]) -> None:
    text = render([(GAUGE, [sample(value, name=name) for name, value in values.items()])])
    assert read(text) == {("a_thing", (("name", name),)): value for name, value in values.items()}


def test_a_text_looks_as_prometheus_documents_it() -> None:
    text = render(
        [
            (GAUGE, [sample(1, name='a "b" \\ c\nd')]),
            (Family("none", "gauge", "Nothing."), []),
            (TIMES, histogram([0.5, 1.0], [1, 0, 2], total=None, stage="s")),
            (TIMES, histogram([0.5], [1, 1], total=2.25, stage="t")),
        ]
    )
    assert text.splitlines() == [
        "# HELP a_thing A thing.",
        "# TYPE a_thing gauge",
        r'a_thing{name="a \"b\" \\ c\nd"} 1',
        "# HELP a_seconds Times.",
        "# TYPE a_seconds histogram",
        'a_seconds_bucket{stage="s",le="0.5"} 1',
        'a_seconds_bucket{stage="s",le="1"} 1',
        'a_seconds_bucket{stage="s",le="+Inf"} 3',
        'a_seconds_count{stage="s"} 3',
        "# HELP a_seconds Times.",
        "# TYPE a_seconds histogram",
        'a_seconds_bucket{stage="t",le="0.5"} 1',
        'a_seconds_bucket{stage="t",le="+Inf"} 2',
        'a_seconds_sum{stage="t"} 2.25',
        'a_seconds_count{stage="t"} 2',
    ]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a",
            "a 1 2",
            "a  1",
            "a NaN",
            "a +Inf",
            "a -Inf",
            "a 1e999",
            "a 0x1",
            "a 1_0",
            "a \u0661",
            "1",
            " a 1",
            "a\r 1",
        ),
        *('a{x="1"', "a{x=1} 1", 'a{="1"} 1', 'a{x="1"y="2"} 1', 'a{x="1",} 1', 'a{x="1",x="2"} 1', 'a{x="\\q"} 1'),
        *('a{le="x"} 1', 'a{le="nan"} 1', 'a{le=""} 1'),
        *("a 1\na 1", 'a{x="1",y="2"} 1\na{y="2",x="1"} 1', "a 1\n\na 2"),
        *("<html>", "a" * 101 + " 1", "# HELP\n" * MAX_BYTES),
    ],
)
def test_what_is_no_text_of_ours_is_refused(text: str) -> None:
    with pytest.raises(CodecError) as caught:
        read(text)
    assert caught.value.code == "metrics.malformed"


@given(st.text() | st.text().map("a{{{}}} 1".format) | st.text().map("a {}".format))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(CodecError):
        assert all(math.isfinite(value) for value in read(text).values())


@given(st.lists(st.text(max_size=80) | st.from_regex(r"[a-z]{1,4}\.[a-z]{1,4}", fullmatch=True), max_size=200))
def test_whoever_makes_up_codes_makes_few_series(codes: list[str]) -> None:
    counted = ByCode()
    for code in codes:
        counted.add(code)
    assert sum(one.value for one in counted.samples()) == len(codes)
    assert len(counted.samples()) <= 65
    for one in counted.samples():
        assert one.labels["code"] == "other" or one.labels["code"] in codes
