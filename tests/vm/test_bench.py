"""The benchmark suite in virtual machines: it makes all it needs, and says what its figures are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from vm_world import SECONDS

from ephemeralml.bench.results import SUITE, read
from ephemeralml.image.kernel import Kernel

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def test_the_suite_makes_its_images_and_says_that_they_are_emulated(
    kernel: Kernel, image_cache: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert kernel.bzimage.is_file()
    assert image_cache.is_dir()
    out = tmp_path / "out"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "ephemeralml.cli", "bench", "run", "--platform", "vm", "--quick"),
            *("--model", str(tiny_model), "--output-dir", str(out), "--memory", "768"),
        ],
        capture_output=True, text=True, timeout=4 * SECONDS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in out.iterdir()} == {"enclave_results.json", "enclave_samples.json.gz"}
    result = read(out / "enclave_results.json", SUITE)
    assert (result["platform"], result["kind"]) == ("vm", "emulated")
    assert result["controls"]["kms_calls"] == result["inference"]["num_warmups"] + result["inference"]["num_iterations"]
    assert result["controls"]["wrong_context"].startswith("kms.")
    assert result["controls"]["damaged_package"] == "artifact.authentication"
    assert result["quality"]["largest_difference"] <= 1e-5
    assert result["memory"]["enclave_allocation_mb"] == pytest.approx(768 * 1.048576)
    assert "bare metal" in result["absent"]
    report = subprocess.run(
        [
            *(sys.executable, "-m", "ephemeralml.cli", "bench", "report", str(out / "enclave_results.json")),
            *("--output", str(tmp_path / "page.md")),
        ],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "page.md").read_text()
    assert "**Emulated** on platform **vm**" in page
    assert "Overheads are not printed" in page
