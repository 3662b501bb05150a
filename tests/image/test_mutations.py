"""Changed images: with a wrong CRC never measured, with a right one never a signed image of other content."""

from __future__ import annotations

from pathlib import Path

import pytest
from eif import forge, reseal
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import image
from ephemeralml.errors import ImageError


def _measure(data: bytes) -> dict[str, str] | None:
    try:
        found = image.read(data)
        found.check()
    except ImageError:
        return None
    return dict(found.pcrs)


def _positions(data: bytes) -> set[int]:
    """Every byte of the headers and of all small sections, and every 16th of kernel and ramdisks."""
    found = image.read(data)
    passing = {
        position
        for item in found.sections
        if str(item.kind) in {"kernel", "ramdisk"}
        for position in range(item.offset + 12, item.offset + 12 + item.size)
        if position % 16
    }
    return set(range(len(data))) - passing


def _attack(data: bytes) -> None:
    """Change each byte alone, with and without mending the CRC."""
    intact = _measure(data)
    assert intact is not None
    intact = {"PCR8": "", **intact}
    measured = [
        (item.offset + 12, item.offset + 12 + item.size)
        for item in image.read(data).sections
        if str(item.kind) in {"kernel", "cmdline", "ramdisk"}
    ]
    for position in _positions(data):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        assert _measure(bytes(changed)) is None, position
        mended = _measure(reseal(bytes(changed)))
        if any(start <= position < end for start, end in measured):
            assert mended is None if intact["PCR8"] else mended != intact, position
        elif mended is not None:
            # Another certificate for the same key is another PCR8: that is what a policy pins.
            assert {**mended, "PCR8": ""} == {**intact, "PCR8": ""}, position


def test_an_image_with_any_byte_changed(signed: bytes) -> None:
    _attack(forge())
    _attack(signed)


def test_images_of_aws_with_any_byte_changed(vectors: Path) -> None:
    for name in ("v2_boot_only.eif", "v5_signed_pcr8.eif", "v6_named_meta.eif"):
        _attack((vectors / "eif" / name).read_bytes())


def test_images_of_aws_cut_anywhere(vectors: Path) -> None:
    data = (vectors / "eif" / "v5_signed_pcr8.eif").read_bytes()
    edges = {item.offset + shift for item in image.read(data).sections for shift in (-1, 0, 1, 11, 12, 13)}
    for length in sorted({0, 1, 4, 543, 544, 547, *edges, *range(548, len(data), 97), len(data) - 1}):
        with pytest.raises(ImageError) as caught:
            image.read(data[:length])
        assert caught.value.code == "image.truncated"


@given(st.data())
def test_spliced_images_are_refused_or_of_the_same_pcr0(signed: bytes, data: st.DataObject) -> None:
    """With a right CRC: the signature holds PCR0 to the signer's."""
    intact = image.read(signed).pcrs
    changed = bytearray(signed)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        length = data.draw(st.integers(0, 64))
        changed[at : at + length] = data.draw(st.binary(max_size=64))
    mended = _measure(reseal(bytes(changed))) if len(changed) > 548 else None
    if mended is not None and mended.get("PCR8") == intact["PCR8"]:
        assert mended["PCR0"] == intact["PCR0"]
