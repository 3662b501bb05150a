"""One signer and one signed image for the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from eif import APPLICATION, BOOT, CMDLINE_TEXT, KERNEL_BYTES, Signer, make_signer

from ephemeralml import image


@pytest.fixture(scope="session")
def signer() -> Signer:
    return make_signer()


@pytest.fixture(scope="session")
def signed_file(signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image signed by `signer`, by our builder."""
    path = tmp_path_factory.mktemp("eif") / "signed.eif"
    image.build(
        path,
        kernel=KERNEL_BYTES,
        cmdline=CMDLINE_TEXT,
        ramdisks=[BOOT, APPLICATION],
        metadata=image.Metadata(),
        signing_cert=signer.certificate,
        signing_key=signer.private,
    )
    return path


@pytest.fixture(scope="session")
def signed(signed_file: Path) -> bytes:
    return signed_file.read_bytes()
