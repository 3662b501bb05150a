"""Where enclaves are images: a stand-in nitro-cli starts real enclave processes, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nitro import Instance, made_instance

from ephemeralml.bench.results import SUITE, read
from ephemeralml.devcloud import world as devcloud

from .conftest import PATIENCE


@pytest.fixture
def instance() -> Iterator[Instance]:
    with made_instance() as made:
        yield made


@pytest.mark.usefixtures("own_sources")
@pytest.mark.slow
def test_a_run_on_nitro_without_a_baseline(instance: Instance, tiny_model: Path, tmp_path: Path) -> None:
    here = tmp_path / "world"
    here.mkdir()
    with devcloud.World(here) as world:
        environment = world.environment("owner")

        def done(*arguments: object) -> str:
            return devcloud.run(*map(str, arguments), environment=environment)

        done("keygen", here / "owner.key")
        configuration = here / "enclave.json"
        configuration.write_text(json.dumps({"model_owner": (here / "owner.key.pub").read_text().strip()}))
        measured = {name: here / f"{name}.json" for name in ("serves", "measures")}
        measured["serves"].write_text(done("enclave", "measure", configuration))
        measured["measures"].write_text(done("enclave", "measure", configuration, "--bench"))
        releases = [word for path in measured.values() for word in ("--measurements", path)]
        key = done("kms", "create-key", *releases, "--endpoint", world.kms_url).strip()
        done(
            *("pack", tiny_model, here / "package", "--key", here / "owner.key", "--version", 1),
            *("--kms-key", key, "--kms-endpoint", world.kms_url),
        )
        policy = here / "policy.json"
        root = world.root / "root.der"
        done("policy", "create", "--measurements", measured["serves"], "--out", policy, "--root", root)
        sockets = {name: f"unix://{instance.folder}/{name}.sock" for name in ("enclave", "services")}
        start = [sys.executable, "-m", "ephemeralml.cli", "enclave", "run", configuration, "--root", world.root]
        start += ["--listen", sockets["enclave"], "--host", sockets["services"]]
        images = {}
        for name, more in {"serves": [], "measures": ["--bench"]}.items():
            made = instance.image(*start, *more, pcrs=json.loads(measured[name].read_text()))
            images[name] = made.rename(instance.folder / f"{name}.eif")
        host = ["--services", sockets["services"], "--kms-endpoint", world.kms_url]
        command: list[Any] = [sys.executable, "-m", "ephemeralml.cli", "bench", "run", "--platform", "nitro", "--quick"]
        command += ["--skip-baseline", "--iterations", 5, "--model", tiny_model, "--output-dir", tmp_path / "out"]
        command += ["--package", here / "package", "--policy", policy, "--connect", sockets["enclave"]]
        command += ["--eif", images["serves"], "--bench-eif", images["measures"], "--memory", 512]
        command += [f"--host-option={word}" for word in host]
        ran = subprocess.run(
            list(map(str, command)),
            env=os.environ | world.environment("host") | instance.environment,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert instance.enclaves() == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"enclave_results.json", "enclave_samples.json.gz"}
    result = read(tmp_path / "out" / "enclave_results.json", SUITE)
    assert (result["platform"], result["kind"]) == ("nitro", "measured")
    assert result["memory"]["enclave_allocation_mb"] == pytest.approx(512 * 1.048576)
    assert result["controls"]["kms_calls"] is None
    assert result["controls"]["wrong_context"].startswith("kms.")
    assert result["quality"]["least_cosine"] is None
    assert set(result["absent"]) == {"controls.kms_calls", "controls.damaged_package", "quality"}


def test_images_are_asked_for(tmp_path: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "ephemeralml.cli", "bench", "run", "--platform", "nitro"]
    done = subprocess.run(
        [*command, "--model", str(tiny_model), "--output-dir", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--bench-eif" in done.stderr
    assert not (tmp_path / "out").exists()
