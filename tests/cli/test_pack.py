from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ephemeralml.cli import main
from ephemeralml.inference.convert import convert_weights
from ephemeralml.package import DataKey, FolderSource, Manifest, open_package

Run = Callable[..., tuple[int, str, str]]
ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"
DEK = os.urandom(32)


class Keys:
    def __init__(self, key_arn: str, *, endpoint_url: str | None) -> None:
        assert (key_arn, endpoint_url) == (ARN, None)

    def generate_data_key(self, _: Mapping[str, str]) -> DataKey:
        return DataKey(plaintext=DEK, wrapped=b"wrapped", key_arn=ARN, provider="aws-kms")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ephemeralml", *map(str, arguments)])
        monkeypatch.setattr("ephemeralml.host.kms.KmsKeyProvider", Keys)
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def pack(run: Run, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    run("keygen", tmp_path / "owner.key")

    def call(model: Path, *options: object) -> tuple[int, str, str]:
        where = (model, tmp_path / "out", "--key", tmp_path / "owner.key")
        return run("pack", *where, "--version", 1, "--kms-key", ARN, *options)

    return call


@pytest.mark.parametrize("precision", [None, "fp32", "bf16", "int8"])
def test_weights_are_packed_in_the_precision_asked_for(
    pack: Run, run: Run, tiny_model: Path, tmp_path: Path, precision: str | None
) -> None:
    status, out, _ = pack(tiny_model, *(["--precision", precision] if precision else []))
    expected = precision or "fp32"
    assert status == 0
    assert expected in out
    manifest = Manifest.verify(FolderSource(tmp_path / "out").manifest(), owner=None)
    assert manifest.spec.precision == expected
    weights = open_package(manifest, source=FolderSource(tmp_path / "out"), dek=DEK)["model.safetensors"]
    raw = (tiny_model / "model.safetensors").read_bytes()
    assert bytes(weights) == (raw if expected == "fp32" else convert_weights(raw, precision=expected))
    status, out, _ = run("inspect", tmp_path / "out", "--json")
    assert status == 0
    assert json.loads(out)["spec"]["precision"] == expected


def test_another_precision_is_a_usage_error(pack: Run, tiny_model: Path, tmp_path: Path) -> None:
    status, _, error = pack(tiny_model, "--precision", "fp8")
    assert status == 2
    assert "fp8" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_folder_that_is_none_is_said(pack: Run, tiny_model: Path, precision: str) -> None:
    for path, instead in ((tiny_model / "nowhere", "nothing"), (tiny_model / "config.json", "a file")):
        status, _, error = pack(path, "--precision", precision)
        assert status == 1
        assert f"no model folder at {path}: {instead} is there [model.missing]" in error


def test_missing_weights_are_named(pack: Run, tiny_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    status, _, error = pack(bare, "--precision", "bf16")
    assert status == 1
    assert "model.safetensors" in error
