"""What long-running commands say: one form for all, no line that somebody else began, and nothing that was quoted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ephemeralml.cli.logs import Log, LogFormat

SECRET = "the patient with the rare name"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("ephemeralml")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    yield
    root.handlers[:], level, our_level, logging.raiseExceptions = before
    root.setLevel(level)
    ours.setLevel(our_level)


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def test_an_event_is_one_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    Log("host", LogFormat.JSON).say("ready", relay="tcp://127.0.0.1:1", count=3, confidential=False)
    [line] = told(capsys)
    assert abs(datetime.fromisoformat(line.pop("time")) - datetime.now(UTC)).total_seconds() < 60
    assert line == {
        "level": "info",
        "event": "ready",
        "relay": "tcp://127.0.0.1:1",
        "count": 3,
        "confidential": False,
    }


def test_for_people_it_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("host", LogFormat.TEXT)
    log.say("ready", relay="tcp://127.0.0.1:1", boot="load 3 ms")
    log.warn("enclave failed", starting_again_in_seconds=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "host: ready relay tcp://127.0.0.1:1, boot load 3 ms",
        "host: enclave failed starting again in seconds 2",
    ]


def test_a_librarys_warning_is_a_line_of_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    Log("gateway", LogFormat.JSON)
    ours = logging.getLogger("ephemeralml.client")
    ours.warning("%s; attesting again", "it ended", extra={"event": "attesting again", "fields": {"code": "a.b"}})
    ours.warning("a sentence")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").info("not of interest")
    lines = [{name: value for name, value in line.items() if name != "time"} for line in told(capsys)]
    assert lines == [
        {"level": "warning", "event": "attesting again", "code": "a.b"},
        {"level": "warning", "event": "a sentence"},
        {"level": "warning", "event": "Invalid HTTP request received.", "logger": "uvicorn.error"},
    ]


@pytest.mark.parametrize("form", LogFormat)
def test_neither_a_traceback_nor_what_an_error_says_is_told(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    Log("gateway", form)
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=True)
        # As asyncio does: the values come below its first line.
        asyncio = logging.getLogger("asyncio")
        asyncio.log(logging.ERROR, "Task exception was never retrieved\nfuture: <Task %r>", error)
        logging.getLogger("ephemeralml.gateway").error("it failed", exc_info=True)
    said = "".join(capsys.readouterr())
    assert said.count("\n") == 3
    assert said.count("ValueError") == 2
    assert SECRET not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("form", LogFormat)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(max_size=100) | st.sampled_from(["\x1b[2J", "a\nhost: ready", "\u202e", "a" * 100_000]))
def test_whatever_an_enclave_says_is_one_line_that_commands_no_terminal(
    form: LogFormat, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Log("host", form).say("ready", boot=words)
    said = "".join(capsys.readouterr())
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    assert len(said) < 2500


def test_a_reader_that_has_gone_costs_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Gone())
    monkeypatch.setattr("sys.stderr", Gone())
    Log("host", LogFormat.JSON).say("ready", boot=SECRET)
