"""The reference of the command line and of the Python API is what the code says."""

from __future__ import annotations

import pytest
from pages import script

REFERENCE = script("write_reference")


@pytest.mark.parametrize("name", REFERENCE.pages())
def test_the_reference_is_what_the_code_says(name: str) -> None:
    written = (REFERENCE.FOLDER / name).read_text(encoding="utf-8")
    assert written == REFERENCE.pages()[name], f"docs/reference/{name} is old: run `make reference`"


def test_every_command_and_option_is_in_it() -> None:
    page = REFERENCE.pages()["cli.md"]
    assert "## ephemeralml policy create\n" in page
    assert "## ephemeralml gateway\n" in page
    assert "## ephemeralml gateway key\n" in page
    assert "| `--relay <str>` | Where clients connect: tcp://HOST:PORT" in page
    assert "[default: tcp://127.0.0.1:7001]" in page


def test_every_public_name_is_in_it_with_its_methods() -> None:
    page = REFERENCE.pages()["python.md"]
    assert "\n## Client\n\n```python\nClient(address: str, *, policy: Policy, timeout: float = 30.0)\n```\n" in page
    assert "\nClient.from_env(*, timeout: float = 30.0) -> Self\n" in page
    assert "\nBundle.split(path: str | os.PathLike[str]) -> Iterator[bytes]\n" in page
    assert "\n### BusyError\n\nA `EphemeralMLError`. The enclave is at a limit." in page
    assert "\n### image.measure_eif\n" in page
