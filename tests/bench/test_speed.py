"""The result file: whole, valid, and true to what ran."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
from typer.testing import CliRunner

from ephemeralml.bench import latency, machine, speed
from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.memory import memory_of
from ephemeralml.bench.report import disturbed, markdown, number, target_rows
from ephemeralml.bench.results import SPEED, read
from ephemeralml.bench.targets import TARGETS, judge
from ephemeralml.cli.commands import make_app
from ephemeralml.errors import ConfigurationError


@pytest.fixture(scope="module")
def result_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the command, on a model that takes no time."""
    out = tmp_path_factory.mktemp("bench") / "results"
    command = ["bench", "speed", "--quick", "--only", "a", "--model", str(tiny_model), "--out", str(out)]
    done = CliRunner().invoke(make_app(command), command)
    assert done.exit_code == 0, done.output
    assert "bench: case a" in done.stderr
    assert "Encoder.encode over the bare engine call" in done.stdout
    [path] = out.iterdir()
    return path


@pytest.fixture(scope="module")
def result(result_file: Path) -> dict[str, Any]:
    return read(result_file, SPEED)


def test_the_result_keeps_to_the_schema(result: dict[str, Any]) -> None:
    fastjsonschema.compile(speed.schema())(result)


@pytest.mark.parametrize("damage", ["seconds", "machine", "cases"])
def test_the_schema_refuses_what_lacks_a_part(result: dict[str, Any], damage: str) -> None:
    check = fastjsonschema.compile(speed.schema())
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        check({name: value for name, value in result.items() if name != damage})


def test_the_result_tells_machine_and_boundaries(result: dict[str, Any]) -> None:
    assert result["machine"]["libraries"]["numpy"]
    assert result["machine"]["cpus_used"] <= 2
    assert len(result["machine"]["load_average_before"]) == 3
    case = result["cases"]["a"]
    assert case["series"]["Encoder.encode fp32"]["count"] == 20
    assert case["figures"]["encode_over_engine"] > 0
    nulls = [name for part in ("series", "figures") for name, value in case[part].items() if value is None]
    assert set(nulls) == set(case["absent"])


def test_neighbours_are_a_share_and_a_warning(result: dict[str, Any]) -> None:
    assert 0 <= machine.busy(0.05) <= 1
    case = result["cases"]["a"]
    quiet, loud = ({**result, "cases": {"a": {**case, "neighbours": [0.0, share]}}} for share in (0.01, 0.3))
    assert disturbed(quiet) == ""
    assert "beside a: do not quote" in disturbed(loud)
    assert disturbed(loud) in markdown(loud)


def test_all_threads_are_kept_to_two_cpus() -> None:
    before = os.sched_getaffinity(0)
    with machine.two_cpus():
        assert os.sched_getaffinity(0) == set(sorted(before)[:2])
    assert os.sched_getaffinity(0) == before


def test_memory_of_a_process() -> None:
    memory = memory_of(os.getpid())
    assert 10 < memory["VmRSS"] <= memory["VmHWM"]


def test_source_outside_a_clone_is_unknown(tmp_path: Path) -> None:
    assert machine.git_state(tmp_path) == {"commit": None, "dirty": None}


def test_committed_results_are_what_the_page_shows() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "performance.md").read_text()
    check = fastjsonschema.compile(speed.schema())
    for path in sorted((docs / "results").glob("speed*.json")):
        committed = read(path, SPEED)
        check(committed)
        assert markdown(committed, picture=f"results/{committed['figure']}") in page


def test_targets_of_cases_that_ran(result: dict[str, Any]) -> None:
    assert [row["case"] for row in result["targets"]] == ["a", "a"]
    for row in result["targets"]:
        assert (row["met"] is None) == (row["value"] is None) == (row["reason"] is not None)


def test_the_report_is_markdown_with_every_series(result_file: Path, result: dict[str, Any]) -> None:
    done = CliRunner().invoke(make_app(["bench"]), ["bench", "report", str(result_file)])
    assert done.exit_code == 0
    assert done.stdout == markdown(result)
    assert "### (a) One text of 9 tokens, in process" in done.stdout
    assert all(f"| {name} |" in done.stdout for name in result["cases"]["a"]["series"])


class Interrupt:
    def __call__(self, _bench: Bench) -> Case:
        raise KeyboardInterrupt


def test_an_interrupted_run_leaves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speed.CASES, "a", Interrupt())
    with pytest.raises(KeyboardInterrupt):
        speed.run(tiny_model, tmp_path, only="a", quick=True)
    assert list(tmp_path.iterdir()) == []


def test_cases_of_the_command_line() -> None:
    assert speed.choose(None) == list(speed.CASES)
    assert speed.choose("c, a") == ["a", "c"]
    for wrong in ("", "z", "a,ab"):
        with pytest.raises(ConfigurationError, match="--only takes letters"):
            speed.choose(wrong)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a result"),
        ('{"schema": "ephemeralml.bench.speed", "schema_version": 0}', "schema version 0"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=why):
        read(path, SPEED)


def case_with(**figures: float | None) -> dict[str, Any]:
    return {"figures": figures, "absent": {name: "why" for name, value in figures.items() if value is None}}


def test_a_target_is_met_missed_or_neither() -> None:
    [ratio, other] = judge({"a": case_with(encode_over_engine=1.15)})
    assert (ratio["met"], ratio["reason"]) == (True, None)
    assert (other["met"], other["reason"]) == (None, "not measured")
    [ratio, _] = judge({"a": case_with(encode_over_engine=1.2)})
    assert ratio["met"] is False
    [ratio, _] = judge({"a": case_with(encode_over_engine=None)})
    assert (ratio["met"], ratio["value"], ratio["reason"]) == (None, None, "why")


def test_every_target_is_of_a_case() -> None:
    assert {target.case for target in TARGETS} == {*speed.CASES, "i"}


def test_a_missed_target_says_so() -> None:
    rows = target_rows({"targets": judge({"b": case_with(added_p50_ms=0.4, added_p99_ms=9.0)})})
    assert [row[-1] for row in rows] == ["met", "missed"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (0.12345, "0.123"), (2.345, "2.35"), (12345.6, "12,346"), (-3.5, "-3.50")],
)
def test_numbers_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_the_schema_file_is_json_and_lies_in_the_package() -> None:
    assert speed.SCHEMA_FILE.parent == Path(latency.__file__).parent
    assert json.loads(speed.SCHEMA_FILE.read_bytes())["$schema"].endswith("draft-07/schema#")
