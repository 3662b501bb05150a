"""Ramdisks: what the kernel reads, the same bytes in whatever order things come."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
import ramdisk
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import ImageError
from ephemeralml.image import cpio
from ephemeralml.image.cpio import Entry

_NAMES = st.text("abc.é-_", min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})
_FILES = st.dictionaries(_NAMES, st.binary(max_size=40), max_size=6)


def archive(*entries: Entry) -> bytes:
    out = io.BytesIO()
    cpio.write(out, entries)
    return out.getvalue()


@given(_FILES, st.randoms())
def test_what_is_written_is_read_again_and_order_does_not_matter(files: dict[str, bytes], random: object) -> None:
    entries = [Entry.file(f"folder/{name}", content) for name, content in files.items()]
    written = archive(*entries)
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert archive(*entries) == written
    members = ramdisk.read(written)
    assert {member.name: member.content for member in members if stat.S_ISREG(member.mode)} == {
        f"folder/{name}": content for name, content in files.items()
    }
    assert [member.fields["inode"] for member in members] == list(range(1, len(members) + 1))
    assert [member.name for member in members] == sorted(member.name for member in members)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_changed_byte_changes_the_archive(content: bytes, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(content) - 1))
    other = content[:index] + bytes([content[index] ^ data.draw(st.integers(1, 255))]) + content[index + 1 :]
    assert archive(Entry.file("a", content)) != archive(Entry.file("a", other))


def test_modes_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"#!")
    (tmp_path / "program").chmod(0o4777)
    members = ramdisk.read(
        archive(
            Entry.file("usr/bin/program", tmp_path / "program", executable=True),
            Entry.link("bin", "usr/bin"),
            Entry.folder("proc"),
            Entry.file("usr/data", b""),
        )
    )
    assert [(member.name, oct(member.mode), member.content) for member in members] == [
        ("bin", "0o120777", b"usr/bin"),
        ("proc", "0o40755", b""),
        ("usr", "0o40755", b""),
        ("usr/bin", "0o40755", b""),
        ("usr/bin/program", "0o100755", b"#!"),
        ("usr/data", "0o100644", b""),
    ]


@pytest.mark.parametrize("path", ["", "/a", "a/../b", "./a", "a//b", "a\0b", "a" * 4096])
def test_a_name_that_leaves_the_archive_is_refused(path: str) -> None:
    with pytest.raises(ImageError) as raised:
        archive(Entry.file(path, b""))
    assert raised.value.code == "image.ramdisk"


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ImageError, match="one name"):
        archive(Entry.file("a", b"one"), Entry.file("a", b"two"))
