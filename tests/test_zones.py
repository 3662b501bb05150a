"""What import contracts cannot see: what is really loaded in a process of each zone."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("entry", "forbidden"),
    [
        (
            "ephemeralml.enclave.__main__",
            ("ephemeralml.client", "ephemeralml.host", "ephemeralml.devcloud", "boto3", "rich"),
        ),
        ("ephemeralml.host.run", ("ephemeralml.enclave", "ephemeralml.inference", "ephemeralml.client", "onnxruntime")),
        (
            "ephemeralml.client",
            ("ephemeralml.enclave", "ephemeralml.host", "ephemeralml.inference", "onnxruntime", "boto3"),
        ),
        (
            "ephemeralml.gateway.server",
            ("ephemeralml.enclave", "ephemeralml.host", "ephemeralml.inference", "ephemeralml.devcloud", "boto3"),
        ),
        (
            "ephemeralml.image",
            ("ephemeralml.enclave", "ephemeralml.host", "ephemeralml.client", "ephemeralml.devcloud", "boto3", "numpy"),
        ),
    ],
)
def test_a_zone_loads_nothing_of_another(entry: str, forbidden: tuple[str, ...]) -> None:
    script = f"import sys, {entry}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert entry in loaded
    assert [name for name in loaded if name.startswith(forbidden)] == []


def test_public_names_are_few_and_exist() -> None:
    import ephemeralml  # noqa: PLC0415

    assert len(ephemeralml.__all__) < 30
    assert all(getattr(ephemeralml, name).__name__ == name for name in ephemeralml.__all__)
    with pytest.raises(AttributeError):
        _ = ephemeralml.nothing_of_that_name
