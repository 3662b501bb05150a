"""The two result files: to their schema, whole, and comparable or refused."""

from __future__ import annotations

import copy
import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
from ctrl_c import stopped

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.results import SUITE, kind_of, read
from ephemeralml.bench.suite.compare import Result, check_comparable
from ephemeralml.bench.suite.run import results_in
from ephemeralml.bench.suite.schema import schema, validate
from ephemeralml.errors import ConfigurationError

ENVIRONMENTS = ["baseline", "enclave"]


@pytest.fixture
def contents(results: Path) -> dict[str, dict[str, Any]]:
    return {name: read(results / f"{name}_results.json", SUITE) for name in ENVIRONMENTS}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_results_keep_to_the_schema(contents: dict[str, dict[str, Any]], name: str) -> None:
    fastjsonschema.compile(schema())(contents[name])
    validate(contents[name])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, inner in items:
        if key != "series" or len(path) > 1:
            found += places(inner, (*path, key))
    return found


def test_our_checker_decides_as_a_validator_does(contents: dict[str, dict[str, Any]]) -> None:
    """Every part of a result replaced by a wrong value, or left out."""
    check = fastjsonschema.compile(schema())
    original = contents["enclave"]

    def verdicts(changed: object) -> tuple[bool, bool]:
        def passes(checker: Callable[[object], object], kind: type[Exception]) -> bool:
            try:
                checker(changed)
            except kind:
                return False
            return True

        return passes(check, fastjsonschema.JsonSchemaValueException), passes(validate, BenchError)

    refused = 0
    wrongs: list[Any] = [None, 0, -1, "", [], {}, True, ...]
    for path in places(original):
        for wrong in wrongs:
            changed = copy.deepcopy(original)
            parent: Any = changed
            for key in path[:-1]:
                parent = parent[key]
            if wrong is ...:
                del parent[path[-1]]
            else:
                parent[path[-1]] = wrong
            theirs, ours = verdicts(changed)
            assert theirs == ours, (path, wrong)
            refused += not ours
    assert refused > 500


def test_the_issues_shape_is_there(contents: dict[str, dict[str, Any]]) -> None:
    bare, enclave = contents["baseline"], contents["enclave"]
    assert (bare["environment"], enclave["environment"]) == ("bare_metal", "enclave")
    assert (enclave["platform"], enclave["kind"]) == ("local", "measured")
    assert all(value > 0 for value in enclave["stages"].values())
    assert bare["stages"]["attestation_ms"] is bare["stages"]["kms_key_release_ms"] is None
    assert bare["stages"]["model_decrypt_ms"] is None
    assert set(bare["vsock"].values()) == {None}
    assert all(value > 0 for value in enclave["vsock"].values())
    for content in contents.values():
        assert len(content["inference"]["input_texts"]) == 5
        assert content["inference"]["num_iterations"] == 20
        assert set(content["inference"]["latency_ms"]) == {"mean", "p50", "p95", "p99", "min", "max"}
        assert content["memory"]["peak_rss_mb"] > content["memory"]["model_size_mb"]
    assert bare["quality"]["vectors_sha256"] == enclave["quality"]["vectors_sha256"]
    assert enclave["controls"]["kms_calls"] == 23


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_series_has_its_samples_and_its_boundary(results: Path, name: str) -> None:
    result = Result.load(results / f"{name}_results.json")
    assert set(result["series"]) == set(result.samples)
    for series, values in result["series"].items():
        assert values["count"] == len(result.samples[series])
        assert any(series == prefix or series.startswith(f"{prefix}/") for prefix in result["boundary"]), series


def test_runs_that_differ_give_no_overhead(results: Path) -> None:
    bare, enclave = (Result.load(results / f"{name}_results.json") for name in ENVIRONMENTS)
    check_comparable(bare, enclave)
    changes: dict[str, tuple[str, Any]] = {
        "threads": ("threads", 4),
        "precision": ("precision", "int8"),
        "model": ("model_sha256", "0" * 64),
        "CPU": ("machine", {**enclave["machine"], "cpu": {"model": "another", "flags": []}}),
        "software": ("software", {"python": "3.12.0", "libraries": {}}),
    }
    for why, (key, value) in changes.items():
        other = Result({**enclave.content, key: value}, enclave.samples)
        with pytest.raises(BenchError, match=f"differ in {why}"):
            check_comparable(bare, other)


def test_a_result_without_its_samples_is_refused(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "enclave_results.json"
    shutil.copy(results / path.name, path)
    with pytest.raises(BenchError, match="is missing"):
        Result.load(path)
    (tmp_path / "enclave_samples.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(BenchError, match="is not what"):
        Result.load(path)


def test_an_older_result_is_refused_with_what_to_do(results: Path, tmp_path: Path) -> None:
    old = tmp_path / "enclave_results.json"
    content = json.loads((results / old.name).read_bytes())
    old.write_text(json.dumps(content | {"schema_version": 0}))
    with pytest.raises(ConfigurationError, match="schema version 0, this release reads 1: measure again"):
        Result.load(old)
    old.write_text(json.dumps({"environment": "enclave", "stages": {}}))
    with pytest.raises(ConfigurationError, match="not a result"):
        kind_of(old)


def test_two_runs_into_one_folder_are_refused(tmp_path: Path) -> None:
    with results_in(tmp_path / "out"), pytest.raises(BenchError, match="another run"), results_in(tmp_path / "out"):
        pass
    with results_in(tmp_path / "out"):
        pass


def test_no_space_is_said_before_and_leaves_older_files_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enclave_results.json").write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, results_in(tmp_path):
        pytest.fail("the run began")
    assert str(tmp_path) in str(caught.value)
    monkeypatch.undo()
    with results_in(tmp_path) as write:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write({"enclave_samples.json.gz": b"new", "enclave_results.json": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["enclave_results.json"]
    assert (tmp_path / "enclave_results.json").read_text() == "old"


def test_ctrl_c_leaves_older_results_no_folder_and_no_process(tiny_model: Path, tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    for folder in (out, scratch):
        folder.mkdir()
    (out / "enclave_results.json").write_text("old")
    run = ("bench", "run", "--quick", "--model", tiny_model, "--output-dir", out)
    stopped(*run, scratch=scratch, at="1 clients")
    assert [path.name for path in out.iterdir()] == ["enclave_results.json"]
    assert (out / "enclave_results.json").read_text() == "old"
    # ONNX Runtime leaves a file of its own there when it is imported.
    assert [path.name for path in scratch.iterdir() if path.name != ".ses"] == []
    mine = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not any(str(scratch).encode() in line for line in mine)
