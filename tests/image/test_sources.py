"""What of this package goes into the image is what its enclave imports, by another tool's judgement too."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from ephemeralml.image.sources import ENTRY, FOLDER, enclave_sources


def test_the_closure_is_that_of_import_linters_graph() -> None:
    graph = grimp.build_graph("ephemeralml", exclude_type_checking_imports=True)
    found = {ENTRY, *graph.find_upstream_modules(ENTRY)}
    # A package's own file runs before its modules, imported or not.
    found |= {".".join(name.split(".")[:depth]) for name in found for depth in range(1, name.count(".") + 1)}
    ours = {
        ".".join(("ephemeralml", *Path(place).with_suffix("").parts)).removesuffix(".__init__")
        for place in enclave_sources()
    }
    assert ours == found


def test_nothing_of_another_zone_is_in_it() -> None:
    zones = {place.partition("/")[0] for place in enclave_sources()}
    assert zones & {"client", "host", "cli", "devcloud", "bench", "image"} == set()
    assert "enclave/init.py" not in enclave_sources()


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("import ephemeralml.other", True),
        ("def f():\n    from ephemeralml import other", True),
        ("try:\n    pass\nfinally:\n    from ephemeralml.other import name", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ephemeralml.other", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import ephemeralml.other", True),
        ("import other", False),
    ],
)
def test_imports_count_wherever_they_stand_but_for_type_checkers(tmp_path: Path, line: str, taken: bool) -> None:
    folder = tmp_path / FOLDER.name
    for place, content in {"__init__": "", "enclave/__init__": "", "enclave/__main__": line, "other": ""}.items():
        path = folder / f"{place}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert ("other.py" in enclave_sources(folder)) is taken
