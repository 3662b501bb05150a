"""Which shared objects are asked for, by what the system's own tools and Python say; damaged files are typed errors."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import ImageError
from ephemeralml.image import elf

_PROGRAM = Path(sys.executable).resolve()
_BYTES = _PROGRAM.read_bytes()[: 1 << 16]


def test_a_programs_libraries_are_those_the_loader_finds() -> None:
    needed = elf.needed(_PROGRAM)
    listed = subprocess.run(["ldd", _PROGRAM], capture_output=True, text=True, check=True).stdout
    assert needed
    assert all(name in listed for name in needed)
    assert elf.is_elf(_PROGRAM)
    assert not elf.is_elf(Path(__file__))


@given(st.data())
def test_damage_is_an_error_of_ours_or_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(_BYTES)))
    damaged = bytearray(_BYTES[:end])
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, min(len(damaged), 2048) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    # Any other error ends the test.
    with suppress(ImageError):
        elf.needed(path)
