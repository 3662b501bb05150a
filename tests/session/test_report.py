"""An enclave's report: read back as it was written, and nothing else is a report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import IDLE

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, TransportError
from ephemeralml.session.hostlink import MESSAGE_BYTES
from ephemeralml.session.report import BOUNDS_MS, REFUSALS, STAGES, Report

COUNT = st.integers(0, 2**53 - 1)
REPORTS = st.builds(
    Report,
    boot=st.binary(min_size=16, max_size=16),
    sessions_open=COUNT,
    in_work=COUNT,
    sessions=COUNT,
    refused=st.tuples(*[COUNT] * len(REFUSALS)),
    stages=st.tuples(*[st.tuples(*[COUNT] * (len(BOUNDS_MS) + 1))] * len(STAGES)),
)


def as_map(report: Report) -> dict[Any, Any]:
    value = cbor.decode(report.to_bytes())
    assert isinstance(value, dict)
    return value


@given(REPORTS)
def test_a_report_is_read_back_as_it_was_written(report: Report) -> None:
    assert Report.from_map(as_map(report)) == report
    # However much was counted, one report is a small message.
    assert len(report.to_bytes()) < MESSAGE_BYTES // 64


@pytest.mark.parametrize("name", ["sessions_open", "in_work", "sessions"])
@pytest.mark.parametrize("value", [-1, 2**53, 2**64 - 1, True, None, "1", b"1", [1]])
def test_a_count_is_a_whole_number_that_a_float_holds(name: str, value: object) -> None:
    with pytest.raises(TransportError):
        Report.from_map(as_map(IDLE) | {name: value})


@pytest.mark.parametrize(
    "change",
    [
        {"boot": bytes(15)},
        {"boot": "0" * 16},
        {"more": 1},
        {"refused": [0] * (len(REFUSALS) + 1)},
        {"refused": [0] * (len(REFUSALS) - 1)},
        {"refused": [0] * (len(REFUSALS) - 1) + [-1]},
        {"refused": {"busy": 1}},
        {"stages": []},
        {"stages": [[0] * (len(BOUNDS_MS) + 1)] * (len(STAGES) + 1)},
        {"stages": [[0] * (len(BOUNDS_MS) + 2)] * len(STAGES)},
        {"stages": [[0] * 4000] * len(STAGES)},
        {"stages": [[[0]] * (len(BOUNDS_MS) + 1)] * len(STAGES)},
        {"stages": [{0: 0}] * len(STAGES)},
    ],
)
def test_more_less_or_other_than_a_report_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TransportError) as caught:
        Report.from_map(as_map(IDLE) | change)
    assert caught.value.code == "hostlink.malformed"


def test_a_report_without_one_of_its_parts_is_refused() -> None:
    for name in set(as_map(IDLE)) - {"ask"}:
        with pytest.raises(TransportError):
            Report.from_map({key: value for key, value in as_map(IDLE).items() if key != name})


@pytest.mark.parametrize("number", [b"\xf9\x7e\x00", b"\xf9\x7c\x00", b"\xfb\xbf\xf0\0\0\0\0\0\0"])
def test_a_number_that_is_no_whole_one_never_gets_as_far(number: bytes) -> None:
    # NaN, infinity and -1.0 in place of the first zero.
    whole = IDLE.to_bytes()
    at = whole.index(b"in_work\x00") + len(b"in_work")
    with pytest.raises(CodecError):
        cbor.decode(whole[:at] + number + whole[at + 1 :])
