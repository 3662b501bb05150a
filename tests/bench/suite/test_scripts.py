"""The scripts around the commands, and Run Command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ephemeralml.cli.commands import make_app
from ephemeralml.package import FolderSource, Manifest

from .conftest import INSTANCE, PATIENCE, ROOT, Ssm


def test_results_come_back_whole_and_the_instance_is_left_clean(results: Path, ssm: Ssm) -> None:
    names = {path.name for path in results.iterdir()}
    assert {"baseline_results.json", "enclave_results.json", "benchmark_report.md", "benchmark_report.html"} <= names
    first, *pieces, last = ssm.commands[: [line[:6] for line in ssm.commands].index("rm -rf") + 1]
    assert " run /var/tmp/" in first
    assert len(pieces) > 1
    folder = last.split()[-2]
    assert not Path(folder).exists()
    assert not Path(f"{folder}.tar.gz").exists()


def test_a_failed_run_says_why_and_collects_nothing(ssm: Ssm, tmp_path: Path) -> None:
    done = ssm.run(
        *("--instance", INSTANCE, "--output-dir", tmp_path / "out", "--remote", ROOT, "--", "--model", "/nowhere")
    )
    assert done.returncode == 1
    assert "the instance says Failed" in done.stderr
    assert "no model folder at /nowhere" in done.stderr
    assert not (tmp_path / "out").exists()
    # It stays there for whoever looks for the reason.
    shutil.rmtree(Path(done.stderr.split()[-1]).parent)


def test_an_instance_that_is_not_there_is_said(ssm: Ssm) -> None:
    done = ssm.run("--instance", "i-none", "--remote", ROOT)
    assert done.returncode != 0
    assert "InvalidInstanceId" in done.stderr


def test_without_an_instance_it_says_how_to_use_it(ssm: Ssm) -> None:
    done = ssm.run()
    assert done.returncode == 2
    assert "--instance" in done.stderr


def test_the_report_script_and_the_command_write_the_same_page(results: Path, tmp_path: Path) -> None:
    baseline, enclave = results / "baseline_results.json", results / "enclave_results.json"
    by_script, by_command = tmp_path / "a" / "benchmark_report.md", tmp_path / "b" / "benchmark_report.md"
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "scripts" / "benchmark_report.py", "--baseline", baseline, "--enclave", enclave),
            *("--output", by_script),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    called = CliRunner().invoke(
        make_app(["bench"]), ["bench", "report", str(baseline), str(enclave), "--output", str(by_command)]
    )
    assert called.exit_code == 0, called.output
    assert by_script.read_text() == by_command.read_text() == (results / "benchmark_report.md").read_text()


def test_a_model_is_prepared_for_both_enclaves(ssm: Ssm, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    script: list[str | Path] = [ROOT / "scripts" / "prepare_benchmark_model.sh", out, "--model", tiny_model]
    done = subprocess.run(script, env=ssm.environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    owner = bytes.fromhex((out / "owner.key.pub").read_text())
    manifest = Manifest.verify(FolderSource(out / "package").manifest(), owner=owner)
    assert manifest.model_id == tiny_model.name
    serves, measures = (json.loads((out / f"measurements{which}.json").read_text()) for which in ("", "-bench"))
    assert serves["PCR0"] != measures["PCR0"]
    assert serves["PCR1"] == measures["PCR1"]
    again = subprocess.run(script, env=ssm.environment, capture_output=True, text=True, check=False)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [[], ["out", "--nonsense"], ["out", "--model", "a", "--hugging-face", "b"]])
def test_wrong_arguments_show_how_to_prepare(ssm: Ssm, arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "prepare_benchmark_model.sh", *arguments],
        env=ssm.environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--kms-key ARN" in done.stderr
    assert list(tmp_path.iterdir()) == []
