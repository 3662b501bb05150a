"""What an enclave counts of its work, and that what it tells of it is as much as was promised."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import IDLE

from ephemeralml.enclave import tally as module
from ephemeralml.enclave.tally import Tally, keep_telling
from ephemeralml.session.report import BOUNDS_MS, STAGES, Report

PATIENCE = 60


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.floats(0, 1e6)), max_size=40))
def test_each_passage_is_in_one_bucket_of_its_stage(passages: list[tuple[str, float]]) -> None:
    tally = Tally()
    for stage, milliseconds in passages:
        tally.took(stage, milliseconds)
    report = tally.report(IDLE.boot)
    for stage, counts in zip(STAGES, report.stages, strict=True):
        took = [milliseconds for name, milliseconds in passages if name == stage]
        assert sum(counts) == len(took)
        for bound, upto in zip(BOUNDS_MS, range(1, len(BOUNDS_MS) + 1), strict=True):
            assert sum(counts[:upto]) == sum(value <= bound for value in took)


def test_nothing_of_a_passage_is_told_but_its_bucket() -> None:
    reports = set()
    for milliseconds in (4.001, 5.5, 7.25, 8.0):
        tally = Tally()
        tally.took("engine", milliseconds)
        reports.add(tally.report(IDLE.boot).to_bytes())
    assert len(reports) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *[(code, "busy") for code in ("busy", "busy.queue", "busy.closed")],
        *[(code, "request") for code in ("request.texts", "request.text_bytes", "message.malformed")],
        ("record.too_large", "request"),
        *[(code, "enclave") for code in ("internal", "inference.engine", "clock.drift", "", "whatever")],
    ],
)
def test_a_refusal_is_told_by_its_kind_and_no_code(code: str, reason: str) -> None:
    tally = Tally()
    tally.refused(code)
    number = ("busy", "request", "enclave", "evidence").index(reason)
    expected = replace(IDLE, refused=tuple(int(index == number) for index in range(4)))
    assert tally.report(IDLE.boot) == expected


def test_a_report_comes_at_once_and_again_and_a_host_that_hangs_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.001)
    told: list[Report] = []
    twice, hang = threading.Event(), threading.Event()

    def tell(report: Report) -> None:
        told.append(report)
        if len(told) == 2:
            twice.set()
            hang.wait(PATIENCE)

    tally = Tally()
    try:
        keep_telling(tally, boot=IDLE.boot, tell=tell)
        assert twice.wait(PATIENCE)
        # The host takes its time; what is counted meanwhile is counted.
        tally.sessions += 1
        assert [report.sessions for report in told] == [0, 0]
        [thread] = [one for one in threading.enumerate() if one.name == "report"]
        # The process's end does not wait for it.
        assert thread.daemon
        hang.set()
        while len(told) < 3:
            assert thread.is_alive()
        assert told[2].sessions == 1
    finally:
        hang.set()
        monkeypatch.setattr(module, "INTERVAL_SECONDS", PATIENCE)


# How this thread, which nothing ends, is ended here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_host_does_not_choose_when_the_count_is_taken_by_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Enclaves of other tests go on telling, by the real clock.
    others = threading.enumerate()

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return time.monotonic() if threading.current_thread() in others else self.now

        def sleep(self, seconds: float) -> None:
            if threading.current_thread() in others:
                time.sleep(seconds)
            else:
                self.now += seconds

    clock, done = Clock(), threading.Event()
    answers_after = iter([0.5, 9.75, 3.25, 47.0, 10.0, 0.0])
    taken: list[float] = []
    telling: list[threading.Thread] = []

    def tell(_: Report) -> None:
        taken.append(clock.now)
        seconds = next(answers_after, None)
        if seconds is None:
            telling.append(threading.current_thread())
            done.set()
            raise SystemExit
        clock.now += seconds

    monkeypatch.setattr(module, "monotonic", clock.monotonic)
    monkeypatch.setattr(module, "sleep", clock.sleep)
    keep_telling(Tally(), boot=IDLE.boot, tell=tell)
    assert done.wait(PATIENCE)
    telling[0].join()
    assert [at - 1000 for at in taken] == [0, 10, 20, 30, 80, 100, 110]


def test_a_bucket_is_found_as_prometheus_reads_it() -> None:
    # A bound belongs to the bucket below it: `le`.
    assert [bisect_left(BOUNDS_MS, value) for value in (0, 1, 1.001, 2, 16384, 16385)] == [0, 0, 1, 1, 14, 15]
