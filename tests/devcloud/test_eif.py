"""What a machine boots from is what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeralml.devcloud import eif as module
from ephemeralml.devcloud.eif import extract
from ephemeralml.errors import ImageError
from ephemeralml.image import Image, Metadata, build, measure, read

KERNEL, FIRST, SECOND = b"kernel" * 1000, b"first ramdisk", b"second"
CMDLINE = "console=ttyS0"


@pytest.fixture
def eif(tmp_path: Path) -> Path:
    path = tmp_path / "enclave.eif"
    metadata = Metadata(image_name="x", image_version="1", build_tool_version="1", kernel_version="1")
    build(path, kernel=KERNEL, cmdline=CMDLINE, ramdisks=[FIRST, SECOND], metadata=metadata)
    return path


def test_kernel_ramdisks_and_registers_are_the_image_s(eif: Path, tmp_path: Path) -> None:
    found = extract(eif, tmp_path)

    assert found.kernel.read_bytes() == KERNEL
    # The second begins where Linux looks for one.
    assert found.ramdisk.read_bytes() == FIRST + bytes(3) + SECOND
    assert found.cmdline == CMDLINE
    assert found.pcrs == measure(kernel=KERNEL, cmdline=CMDLINE, ramdisks=[FIRST, SECOND])


def test_a_damaged_image_is_not_extracted(eif: Path, tmp_path: Path) -> None:
    data = bytearray(eif.read_bytes())
    data[data.index(FIRST)] ^= 1
    eif.write_bytes(data)

    with pytest.raises(ImageError) as caught:
        extract(eif, tmp_path)
    assert caught.value.code == "image.crc"


def test_an_image_that_changes_after_it_was_measured_is_not_booted(
    eif: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_then_changed(path: Path) -> Image:
        image = read(path)
        data = bytearray(path.read_bytes())
        data[data.index(SECOND)] ^= 1
        path.write_bytes(data)
        return image

    monkeypatch.setattr(module, "read", measured_then_changed)
    with pytest.raises(ImageError) as caught:
        extract(eif, tmp_path)
    assert caught.value.code == "image.changed"
