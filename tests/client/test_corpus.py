"""What a corpus's file may be called, and that only .parquet needs more than a client has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ephemeralml.client.corpus import check_format
from ephemeralml.errors import ConfigurationError


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl", "v.parquet"])
def test_formats_that_are_written(name: str) -> None:
    check_format(Path(name))


@pytest.mark.parametrize("name", ["v", "v.csv", "v.PARQUET", ".parquet", "v.parquet.gz", "v.npz"])
def test_others_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\.npy or \.jsonl or \.parquet") as caught:
        check_format(Path(name))
    assert caught.value.code == "embed.format"


def test_without_pyarrow_parquet_is_refused_by_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check_format(Path("v.npy"))
    check_format(Path("v.jsonl"))
    with pytest.raises(ConfigurationError, match=r"pip install 'ephemeralml\[parquet\]'") as caught:
        check_format(Path("v.parquet"))
    assert caught.value.code == "embed.pyarrow"


def test_a_client_does_not_import_it() -> None:
    program = "import sys, ephemeralml, ephemeralml.cli.embed; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
