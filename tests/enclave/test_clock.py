"""The enclave's time: what is compared, how far it may be off, and that receipts carry the module's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.clock import MAX_ANSWER_SECONDS, MAX_DIFFERENCE_SECONDS, Clock, require_clock_source
from ephemeralml.enclave.security_module import SecurityModule, SecurityModuleError
from ephemeralml.errors import PlatformError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
UNIX = NOW.timestamp()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: UNIX)


def compare(clock: Clock, ahead: float, *, asked: float = 0, took: float = 0) -> None:
    """A document of a module `ahead` of the system's clock as it was at the answer."""
    clock.compare(NOW + timedelta(seconds=ahead), asked=asked, answered=asked + took, system=UNIX)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("ahead", [0, 1.5, -1.5, MAX_DIFFERENCE_SECONDS, -MAX_DIFFERENCE_SECONDS])
def test_the_time_is_the_modules(ahead: float) -> None:
    clock = Clock()
    compare(clock, ahead)
    assert clock.now() == UNIX + ahead


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("ahead", [MAX_DIFFERENCE_SECONDS + 0.001, -MAX_DIFFERENCE_SECONDS - 0.001, 86400, -86400])
def test_a_difference_above_the_limit_is_refused_and_no_time_is_told_after_it(ahead: float) -> None:
    clock = Clock()
    compare(clock, 2)
    with pytest.raises(PlatformError) as caught:
        compare(clock, ahead)
    assert caught.value.code == "clock.drift"
    assert ("behind" if ahead > 0 else "ahead") in str(caught.value)
    with pytest.raises(PlatformError) as caught:
        clock.now()
    assert caught.value.code == "clock.drift"
    compare(clock, -1)
    assert clock.now() == UNIX - 1


def test_no_time_is_told_before_the_first_document() -> None:
    with pytest.raises(PlatformError):
        Clock().now()


@pytest.mark.usefixtures("stopped")
def test_the_while_a_document_took_is_no_difference() -> None:
    clock = Clock()
    compare(clock, -8, took=8)
    assert clock.now() == UNIX
    compare(clock, -10, took=8)
    assert clock.now() == UNIX - 2
    compare(clock, 3, took=8)
    assert clock.now() == UNIX + 3
    compare(clock, -MAX_DIFFERENCE_SECONDS - MAX_ANSWER_SECONDS, took=MAX_ANSWER_SECONDS)
    assert clock.now() == UNIX - MAX_DIFFERENCE_SECONDS


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("took", [MAX_ANSWER_SECONDS + 0.001, 300, 86400])
def test_a_document_that_took_too_long_is_refused_and_says_nothing(took: float) -> None:
    clock = Clock()
    for known in (False, True):
        with pytest.raises(PlatformError) as caught:
            compare(clock, -took / 2, took=took)
        assert caught.value.code == "clock.slow"
        if known:
            assert clock.now() == UNIX + 5
        else:
            with pytest.raises(PlatformError):
                clock.now()
        compare(clock, 5)


@pytest.mark.usefixtures("stopped")
def test_drift_is_drift_however_long_the_document_took() -> None:
    clock = Clock()
    compare(clock, 5)
    with pytest.raises(PlatformError) as caught:
        compare(clock, 86400, took=300)
    assert caught.value.code == "clock.drift"
    with pytest.raises(PlatformError):
        clock.now()


@pytest.mark.usefixtures("stopped")
def test_what_was_asked_last_counts_whatever_comes_last() -> None:
    clock = Clock()
    with pytest.raises(PlatformError):
        compare(clock, 600, asked=2)
    compare(clock, 0, asked=1, took=5)
    with pytest.raises(PlatformError) as caught:
        clock.now()
    assert caught.value.code == "clock.drift"
    compare(clock, 1, asked=3)
    # Refused all the same, but the clock agreed since.
    with pytest.raises(PlatformError):
        compare(clock, 600, asked=2.5, took=5)
    assert clock.now() == UNIX + 1


@given(st.floats(-1e6, 1e6), st.floats(0, MAX_ANSWER_SECONDS))
def test_the_difference_is_never_more_than_to_either_end(ahead: float, took: float) -> None:
    far = max(ahead, -took - ahead, 0)
    try:
        compare(Clock(), ahead, took=took)
    except PlatformError:
        assert far > MAX_DIFFERENCE_SECONDS - 1e-3
    else:
        assert far < MAX_DIFFERENCE_SECONDS + 1e-3


class Local(SecurityModule):
    def __init__(self, ahead: timedelta) -> None:
        super().__init__()
        self.ahead = ahead
        self._nsm = SoftwareNsm(DevelopmentRoot.create(), {}, clock=lambda: datetime.now(UTC) + self.ahead)

    def _exchange(self, request: bytes) -> bytes:
        return self._nsm.handle(request)


def test_every_document_sets_the_clock() -> None:
    local = Local(timedelta(seconds=7))
    local.attest()
    assert local.clock.now() - time.time() == pytest.approx(7, abs=0.1)
    local.ahead = timedelta(seconds=-5)
    local.attest()
    assert local.clock.now() - time.time() == pytest.approx(-5, abs=0.1)
    local.ahead = timedelta(minutes=2)
    with pytest.raises(PlatformError):
        local.attest()
    with pytest.raises(PlatformError):
        local.clock.now()


@pytest.mark.parametrize("step", [86400, -86400])
def test_a_step_of_the_system_s_clock_while_a_document_is_made_is_seen(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Measured with the clock that stepped, the step would be the while the document took."""

    class Stepping(Local):
        def _exchange(self, request: bytes) -> bytes:
            answer = super()._exchange(request)
            now = time.time() + step
            monkeypatch.setattr(time, "time", lambda: now)
            return answer

    local = Stepping(timedelta())
    with pytest.raises(PlatformError) as caught:
        local.attest()
    assert caught.value.code == "clock.drift"
    with pytest.raises(PlatformError):
        local.clock.now()


def test_a_document_that_is_overtaken_undoes_nothing() -> None:
    class Overtaken(Local):
        overtaken = False

        def _exchange(self, request: bytes) -> bytes:
            answer = super()._exchange(request)
            if not self.overtaken:
                self.overtaken = True
                self.ahead = timedelta(hours=1)
                with pytest.raises(PlatformError):
                    self.attest()
            return answer

    local = Overtaken(timedelta())
    local.attest()
    with pytest.raises(PlatformError) as caught:
        local.clock.now()
    assert caught.value.code == "clock.drift"


def test_what_is_no_document_sets_nothing() -> None:
    class Lying(Local):
        def _exchange(self, request: bytes) -> bytes:
            return cbor.encode({"Attestation": {"document": b"no document"}})

    local = Lying(timedelta())
    with pytest.raises(SecurityModuleError) as caught:
        local.attest()
    assert caught.value.code == "nsm.failed"
    with pytest.raises(PlatformError):
        local.clock.now()


@pytest.fixture
def source(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "current_clocksource"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("content", [b"kvm-clock\n", b"tsc\n"])
def test_the_hypervisors_clock_is_taken(source: Callable[[bytes], Path], content: bytes) -> None:
    require_clock_source(source(content))


@pytest.mark.parametrize("content", [b"acpi_pm\n", b"hpet\n", b"jiffies\n", b"xen\n", b"", b"tsc kvm-clock\n", b"\xff"])
def test_any_other_clock_source_is_refused(source: Callable[[bytes], Path], content: bytes) -> None:
    with pytest.raises(PlatformError) as caught:
        require_clock_source(source(content))
    assert caught.value.code == "clock.source"


def test_a_counter_whose_rate_is_still_being_measured_is_waited_for(source: Callable[[bytes], Path]) -> None:
    path = source(b"tsc-early\n")
    (path.parent / "settled").write_bytes(b"tsc\n")
    settled = threading.Timer(0.3, (path.parent / "settled").replace, [path])
    settled.start()
    require_clock_source(path)
    assert path.read_bytes() == b"tsc\n"


def test_a_counter_whose_rate_is_never_known_is_refused(
    source: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ephemeralml.enclave.clock._PASSING_SECONDS", 0.2)
    with pytest.raises(PlatformError) as caught:
        require_clock_source(source(b"tsc-early\n"))
    assert caught.value.code == "clock.source"


def test_a_kernel_that_does_not_name_its_clock_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError) as caught:
        require_clock_source(tmp_path / "current_clocksource")
    assert caught.value.code == "clock.source"
