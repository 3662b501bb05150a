"""One real run for all of them: through Run Command's stand-in, the scripts, the command line, on a tiny model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nitro import BIN

import ephemeralml

ROOT = Path(__file__).parents[3]
INSTANCE = "i-0123456789abcdef0"
# Far more than a run takes on a slow machine.
PATIENCE = 900


class Ssm:
    """An instance as far as the stand-in `aws` can tell: this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state" / INSTANCE).mkdir(parents=True)
        command = folder / "ephemeralml"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ephemeralml.cli "$@"\n')
        command.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "AWS_STANDIN": str(self.folder / "state"),
            "EPHEMERALML": str(self.folder / "ephemeralml"),
            "SSM_POLL_SECONDS": "0.05",
        }

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "ssm_benchmark.sh", *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    @property
    def commands(self) -> list[str]:
        return (self.folder / "state" / "commands").read_text().splitlines()


def copy_sources(folder: Path) -> Path:
    """The package's, in a folder that is for PYTHONPATH."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(Path(ephemeralml.__file__).parent, folder / "src" / "ephemeralml", ignore=ignored))


@pytest.fixture
def own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local enclave is measured by its sources; whoever edits them meanwhile gets another than the key is for."""
    monkeypatch.setenv("PYTHONPATH", str(copy_sources(tmp_path).parent))


@pytest.fixture(scope="session")
def ssm(tmp_path_factory: pytest.TempPathFactory) -> Ssm:
    return Ssm(tmp_path_factory.mktemp("ssm"))


@pytest.fixture(scope="session")
def results(ssm: Ssm, tiny_model: Path) -> Path:
    """The folder with a run's results, as it came back."""
    out = ssm.folder / "out"
    done = ssm.run(
        *("--instance", INSTANCE, "--region", "us-east-1", "--output-dir", out, "--remote", ROOT),
        *("--", "--quick", "--iterations", "20", "--model", tiny_model),
    )
    assert done.returncode == 0, done.stderr
    return out
