"""A pytest plugin: branch coverage of the parts whose verdicts others rely on, by their own tests, at least 95 % each.

For `make test COVERAGE=1`: other tests run in the same process, uncounted and no slower.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from coverage import Coverage

PARTS = ("codec", "attestation", "package", "session", "receipts")
LEAST = 95
_ROOT = Path(__file__).parents[1]
_TESTS = tuple(f"tests/{part}/" for part in PARTS)

# From here on, since a module's first lines run once: when it is imported.
_coverage = Coverage(
    data_file=None,
    config_file=str(_ROOT / "pyproject.toml"),
    source=[f"{_ROOT}/src/ephemeralml/{part}" for part in PARTS],
)
_coverage.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Count one of the parts' own tests."""
    if not item.nodeid.startswith(_TESTS):
        return (yield)
    _coverage.start()
    try:
        return (yield)
    finally:
        _coverage.stop()


def pytest_collection_finish() -> None:
    """Everything is imported."""
    _coverage.stop()


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    """Say what was covered, above pytest's closing line."""
    yield
    for part in PARTS:
        found = io.StringIO()
        percent = _coverage.report(include=f"{_ROOT}/src/ephemeralml/{part}/*", file=found)
        terminalreporter.line(f"branch coverage of {part}: {percent:.1f} %")
        if percent < LEAST:
            terminalreporter.line(f"\n{found.getvalue()}\nless than {LEAST} %", red=True)
            terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED
