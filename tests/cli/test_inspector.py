"""`verify --html` and `inspector`: what they write, and that the verdict does not hang on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import World, make_world
from typer.testing import CliRunner

from ephemeralml.cli.commands import make_app
from ephemeralml.inspector import build_page


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture
def policy(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    world.policy.save(path)
    return path


def run(*arguments: object) -> tuple[int, str]:
    command = [str(argument) for argument in arguments]
    result = CliRunner().invoke(make_app(command), command)
    return result.exit_code, result.output


def test_the_page_is_written_whole_and_always_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    assert run("inspector", "--out", first) == (0, f"wrote {first}: open it in a browser and drop a bundle on it\n")
    assert run("inspector", "--out", second)[0] == 0
    assert first.read_text(encoding="utf-8") == second.read_text(encoding="utf-8") == build_page()


def test_a_report_is_written_whatever_the_verdict(world: World, policy: Path, tmp_path: Path) -> None:
    bundle, report = tmp_path / "answer.aer", tmp_path / "report.html"
    bundle.write_bytes(world.bundle())
    status, output = run("verify", bundle, "--policy", policy, "--html", report)
    assert status == 0
    assert "not confidential" in output
    assert "Verified, not confidential" in report.read_text(encoding="utf-8")
    bundle.write_bytes(world.bundle(eat_nonce=None))
    status, output = run("verify", bundle, "--policy", policy, "--html", report)
    assert status == 1
    assert "[NONCE_MISSING]" in output
    assert "<code>NONCE_MISSING</code>" in report.read_text(encoding="utf-8")


def test_a_refused_manifest_shows_the_table_up_to_it(world: World, policy: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "answer.aer"
    bundle.write_bytes(world.bundle().replace(b"Apache-2.0", b"Apache-2.1"))
    status, output = run("verify", bundle, "--policy", policy)
    assert status == 1
    assert "✗ manifest" in output
    assert "[manifest.signature]" in output
