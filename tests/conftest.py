"""Fixtures every part shares: the third-party vectors and golden vectors, where they are present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_VECTORS = Path(os.environ.get("EPHEMERALML_VECTORS", Path(__file__).parents[2] / "shared" / "vectors"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"third-party data missing: {path} (set EPHEMERALML_VECTORS)")
    return path


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of data nobody of this project wrote."""
    return _folder(_VECTORS)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Texts and their embeddings by sentence-transformers."""
    return _folder(_VECTORS.parent / "golden")
