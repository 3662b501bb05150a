"""What no image may be: each lie of a header or section, refused by name and before it costs anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eif import (
    APPLICATION,
    BOOT,
    CMDLINE,
    CMDLINE_TEXT,
    KERNEL,
    KERNEL_BYTES,
    METADATA,
    NOT_AFTER,
    NOT_BEFORE,
    PLAIN,
    RAMDISK,
    SIGNATURE,
    forge,
)
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import image
from ephemeralml.errors import ImageError


def _refused(data: bytes, read: Callable[[bytes], object] = image.read) -> str:
    with pytest.raises(ImageError) as caught:
        read(data)
    return caught.value.code


def test_a_good_image() -> None:
    found = image.read(forge())
    found.check()
    assert [(str(item.kind), item.offset, item.size) for item in found.sections] == [
        ("kernel", 548, len(KERNEL_BYTES)),
        ("cmdline", 560 + 262, 22),
        ("metadata", 560 + 262 + 34, 20),
        ("ramdisk", 560 + 262 + 34 + 32, 60),
        ("ramdisk", 560 + 262 + 34 + 32 + 72, 77),
    ]
    assert found.cmdline == CMDLINE_TEXT.encode()
    assert found.metadata == {"ImageName": "test"}
    assert found.signature is None
    assert (found.header.version, found.header.aarch64, found.header.memory, found.header.cpus) == (
        4,
        False,
        1 << 30,
        2,
    )
    assert found.pcrs == image.measure(kernel=KERNEL_BYTES, cmdline=CMDLINE_TEXT, ramdisks=[BOOT, APPLICATION])


def test_earlier_versions_need_no_metadata_and_ramdisks_are_optional() -> None:
    for version in (2, 3, 4):
        for sections in (PLAIN[:2], [*PLAIN[:2], *PLAIN[3:]], PLAIN):
            data = forge(sections, version=version)
            if version == 4 and sections is not PLAIN:
                assert _refused(data) == "image.sections"
            else:
                image.read(data).check()


def test_the_other_architecture_is_read_and_not_measured() -> None:
    found = image.read(forge(flags=1))
    assert found.header.aarch64
    assert found.pcrs == image.read(forge()).pcrs


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("image.header", {"magic": b".elf"}),
        ("image.version", {"version": 1}),
        ("image.version", {"version": 5}),
        ("image.header", {"flags": 2}),
        ("image.header", {"flags": 0x8001}),
        ("image.header", {"reserved": 1}),
        ("image.header", {"unused": 1}),
        ("image.header", {"count": 0}),
        ("image.header", {"count": 1}),
        ("image.header", {"count": 33}),
        ("image.header", {"count": 65535}),
        # Fewer or more than there are.
        ("image.layout", {"count": 4}),
        ("image.layout", {"count": 6}),
        # Overlapping, out of order, a gap, before the header's end, past 64 bits.
        ("image.layout", {"offsets": {1: 548}}),
        ("image.layout", {"offsets": {3: 960, 4: 888}}),
        ("image.layout", {"offsets": {1: 823}}),
        ("image.layout", {"offsets": {0: 0}}),
        ("image.layout", {"sizes": {0: 2**64 - 1}}),
        ("image.layout", {"sizes": {0: 2**64 - 1}, "offsets": {1: 559}}),
        ("image.layout", {"offsets": {31: 1}}),
        ("image.layout", {"sizes": {31: 1}}),
        ("image.section", {"own_sizes": {4: 76}}),
        ("image.section", {"own_sizes": {0: 2**64 - 1}}),
        ("image.section", {"section_flags": 1}),
        ("image.trailing", {"tail": b"\0"}),
        # The last section claims more than there is, by both headers.
        ("image.truncated", {"sizes": {4: 78}, "own_sizes": {4: 78}}),
        ("image.truncated", {"sizes": {4: 2**63}, "own_sizes": {4: 2**63}}),
    ],
)
def test_headers_that_lie(code: str, changes: dict[str, Any]) -> None:
    assert _refused(forge(**changes)) == code


@pytest.mark.parametrize(
    ("code", "sections"),
    [
        ("image.section", [*PLAIN, (0, b"")]),
        ("image.section", [*PLAIN, (6, b"")]),
        ("image.section", [*PLAIN, (65535, b"")]),
        ("image.sections", [*PLAIN, (KERNEL, b"another")]),
        ("image.sections", [*PLAIN, (CMDLINE, b"another")]),
        ("image.sections", [*PLAIN, (METADATA, b"{}")]),
        ("image.sections", [*PLAIN, (SIGNATURE, b""), (SIGNATURE, b"")]),
        ("image.sections", PLAIN[1:]),
        ("image.sections", [PLAIN[0], *PLAIN[2:]]),
        ("image.sections", [(RAMDISK, b"early"), *PLAIN]),
        ("image.metadata", [*PLAIN[:2], (METADATA, b"")]),
        ("image.metadata", [*PLAIN[:2], (METADATA, b"[]")]),
        ("image.metadata", [*PLAIN[:2], (METADATA, b'{"a":"\xff"}')]),
        ("image.signature", [*PLAIN, (SIGNATURE, b"")]),
    ],
)
def test_sections_that_make_no_image(code: str, sections: list[tuple[int, bytes]]) -> None:
    assert _refused(forge(sections)) == code


def test_thirty_two_sections_and_not_one_more() -> None:
    ramdisks = [(RAMDISK, bytes([index])) for index in range(29)]
    assert len(image.read(forge([*PLAIN[:3], *ramdisks])).sections) == 32
    assert _refused(forge([*PLAIN[:3], *ramdisks, (RAMDISK, b"")])) == "image.header"


@pytest.mark.parametrize(("kind", "limit"), [(CMDLINE, 64 << 10), (METADATA, 256 << 10), (SIGNATURE, 32 << 10)])
def test_what_is_kept_in_memory_is_refused_by_its_claim(kind: int, limit: int) -> None:
    """The claim alone is enough: the content is not even there."""
    sections = [(KERNEL, b"k"), (kind, b"")]
    claim = {1: limit + 1}
    assert _refused(forge(sections, sizes=claim, own_sizes=claim)) == "image.too_large"
    claim = {1: limit}
    assert _refused(forge(sections, sizes=claim, own_sizes=claim)) == "image.truncated"


def test_a_damaged_image_is_shown_but_not_measured() -> None:
    for position in (8, 544, 547, 600, len(forge()) - 1):
        data = bytearray(forge())
        data[position] ^= 0x40
        image.read(bytes(data))
        assert _refused(bytes(data), lambda damaged: image.read(damaged).check()) == "image.crc"


def test_every_truncation_is_refused(signed: bytes) -> None:
    for data in (forge(), signed):
        codes = {_refused(data[:length]) for length in range(len(data))}
        assert codes == {"image.truncated"}
        assert _refused(data + b"\0") == "image.trailing"


def test_a_signature_from_another_time_is_refused_only_when_asked(signed_file: Path) -> None:
    assert image.measure_eif(signed_file) == image.measure_eif(signed_file, at=NOT_BEFORE)
    assert image.measure_eif(signed_file, at=NOT_AFTER)
    for at in (NOT_BEFORE.replace(year=2019), NOT_AFTER.replace(year=2041)):
        with pytest.raises(ImageError) as caught:
            image.measure_eif(signed_file, at=at)
        assert caught.value.code == "image.expired"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        image.measure_eif(tmp_path / "nothing.eif")
    assert caught.value.filename == str(tmp_path / "nothing.eif")


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert _refused(data) in {"image.truncated", "image.header"}


_WORD = st.integers(0, 2**16 - 1)
_SIZES = st.dictionaries(st.integers(0, 5), st.integers(0, 2**64 - 1) | st.integers(0, 2000), max_size=2)


@given(
    sections=st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=30)), max_size=6),
    version=st.integers(2, 4) | _WORD,
    flags=st.integers(0, 1) | _WORD,
    count=st.none() | st.integers(0, 40),
    offsets=_SIZES,
    sizes=_SIZES,
    own_sizes=_SIZES,
    tail=st.binary(max_size=2),
)
def test_whatever_headers_say_it_is_an_image_or_the_typed_error(**lies: Any) -> None:
    try:
        found = image.read(forge(**lies))
    except ImageError:
        return
    found.check_crc()
    assert [(item.kind, item.size) for item in found.sections] == [(kind, len(data)) for kind, data in lies["sections"]]
