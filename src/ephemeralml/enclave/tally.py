"""What this boot has done, counted as it is done, and told to the host at fixed times (`session/report.py`)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final

from ephemeralml.session.report import BOUNDS_MS, INTERVAL_SECONDS, REFUSALS, STAGES, Report

# By the first part of an error's code; whatever else goes wrong is the enclave's own.
_REFUSED_AS: Final = {"busy": "busy", "message": "request", "request": "request", "record": "request"}


class Tally:
    """Counts on the event loop; `report` may be called in any thread."""

    def __init__(self) -> None:
        self.sessions_open = 0
        self.in_work = 0
        self.sessions = 0
        self._refused = dict.fromkeys(REFUSALS, 0)
        self._stages = {stage: [0] * (len(BOUNDS_MS) + 1) for stage in STAGES}

    def took(self, stage: str, milliseconds: float) -> None:
        """Count one passage of a stage."""
        self._stages[stage][bisect_left(BOUNDS_MS, milliseconds)] += 1

    def refused(self, code: str) -> None:
        """Count a request that was refused. Only its kind is told: the code may say something of the request."""
        self._refused[_REFUSED_AS.get(code.partition(".")[0], "enclave")] += 1

    def no_evidence(self) -> None:
        """Count a handshake that failed because the platform let it show none."""
        self._refused["evidence"] += 1

    def report(self, boot: bytes) -> Report:
        """All of it, as it is now."""
        return Report(
            boot=boot,
            sessions_open=self.sessions_open,
            in_work=self.in_work,
            sessions=self.sessions,
            refused=tuple(self._refused.values()),
            stages=tuple(map(tuple, self._stages.values())),
        )


def keep_telling(tally: Tally, *, boot: bytes, tell: Callable[[Report], None]) -> None:
    """Report at once and from then on, for as long as the process lasts, which does not wait for it.

    In a thread of its own: a host that takes a minute to answer delays nothing, and misses what was due meanwhile.
    """

    def run() -> None:
        due = monotonic()
        while True:
            tell(tally.report(boot))
            # Not from the answer on: the host would choose the moment at which the next count is taken.
            missed = (monotonic() - due) // INTERVAL_SECONDS
            due += (missed + 1) * INTERVAL_SECONDS
            sleep(max(due - monotonic(), 0))

    threading.Thread(target=run, name="report", daemon=True).start()
