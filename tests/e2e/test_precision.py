"""Packages that are not fp32: what runs is what the owner packed, and the receipt says what that was."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ephemeralml.package.model import PRECISIONS
from ephemeralml.receipts import verify_bundle

# Importing it here would load what the engine keeps out.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra `fast` is missing")
TEXTS = ["hello world.", "", "a", "the quick brown fox, again and again!" * 10]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_receipt_says_what_ran(
    deploy: Callable[..., AbstractContextManager[Any]], tiny_model: Path, tmp_path: Path, precision: str
) -> None:
    with deploy(tmp_path, tiny_model, {}, precision=precision) as running, running.client() as client:
        result = client.embed(TEXTS)
        verdict = verify_bundle(result.bundle.to_bytes(), policy=running.policy)
        ran = running.encoder.precision
    np.testing.assert_allclose(result.vectors, running.encoder.encode(TEXTS), atol=1e-5)
    assert verdict.manifest.spec.precision == precision
    assert ran in PRECISIONS[precision]
    assert result.receipt.claims.model_version == f"1+{ran}"
    assert f"computed in {ran}" in str(verdict)
