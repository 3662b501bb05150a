"""What enclaves report, added up: counters never fall, and no enclave makes the host keep more than a little."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import IDLE

from ephemeralml.errors import TransportError
from ephemeralml.host.reports import Reports
from ephemeralml.session.report import BOUNDS_MS, STAGES


def evidence(times: int) -> tuple[tuple[int, ...], ...]:
    """The stages of an enclave that showed evidence so often, and did nothing else."""
    return tuple((times if name == "evidence" else 0, *[0] * len(BOUNDS_MS)) for name in STAGES)


def test_an_enclave_that_follows_another_is_counted_on_top_of_it() -> None:
    reports = Reports()
    reports.add(replace(IDLE, sessions=5, refused=(1, 2, 3, 4)))
    reports.add(replace(IDLE, sessions=7, refused=(1, 2, 3, 5)))
    reports.add(replace(IDLE, boot=b"b" * 16, sessions=2))
    # Late, from the one that goes.
    reports.add(replace(IDLE, sessions=8, refused=(1, 2, 3, 5)))
    assert reports.sessions == 10
    assert reports.refused == {"busy": 1, "request": 2, "enclave": 3, "evidence": 5}


def test_counters_that_go_back_are_refused_and_change_nothing() -> None:
    reports = Reports()
    reports.add(replace(IDLE, sessions=5))
    with pytest.raises(TransportError):
        reports.add(replace(IDLE, sessions=4, refused=(9, 9, 9, 9)))
    assert (reports.sessions, sum(reports.refused.values())) == (5, 0)


def test_it_is_known_whether_evidence_was_shown_since() -> None:
    reports = Reports()
    told = [reports.add(replace(IDLE, stages=evidence(times))) for times in (0, 1, 1, 2)]
    assert told == [False, True, False, True]
    assert reports.stage("evidence")[0] == 2
    assert sum(reports.stage("request")) == 0


def test_gauges_are_of_all_that_report_and_of_none_that_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("ephemeralml.host.reports.time.monotonic", lambda: now)
    reports = Reports()
    assert reports.now() is None
    reports.add(replace(IDLE, sessions_open=3, in_work=1))
    now += 20
    reports.add(replace(IDLE, boot=b"b" * 16, sessions_open=2, in_work=4))
    assert reports.now() == (5, 5)
    now += 20
    assert reports.now() == (2, 4)
    now += 20
    assert reports.now() is None


def test_an_enclave_that_ended_has_nothing_open_and_its_counts_stay() -> None:
    reports = Reports()
    reports.add(replace(IDLE, sessions=3, sessions_open=3, in_work=1))
    reports.ended()
    assert reports.now() is None
    reports.add(replace(IDLE, boot=b"b" * 16, sessions=1, sessions_open=1))
    assert (reports.now(), reports.sessions) == ((1, 0), 4)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**53 - 1)), max_size=60))
def test_whoever_reports_counters_only_grow_and_few_boots_are_kept(told: list[tuple[int, int]]) -> None:
    reports = Reports()
    before = 0
    for boot, sessions in told:
        try:
            reports.add(replace(IDLE, boot=bytes([boot]) * 16, sessions=sessions))
        except TransportError:
            assert reports.sessions == before
        assert reports.sessions >= before
        assert len(reports._latest) <= 4
        before = reports.sessions
