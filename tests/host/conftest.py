"""The stand-in for nitro-cli on this process's PATH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nitro import Instance


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    made = Instance(tmp_path / "instance")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.kill()
