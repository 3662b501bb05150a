from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from ephemeralml.errors import PackageError
from ephemeralml.package import FolderSource
from ephemeralml.package.manifest import MAX_MANIFEST_SIZE
from ephemeralml.package.source import MAX_CIPHERTEXT_SIZE


def refused(folder: Path, name: str | None = None) -> str:
    """The code for the manifest of `folder`, or for one of its artifacts."""
    source = FolderSource(folder)
    with pytest.raises(PackageError) as caught, nullcontext() if name is None else source.open(name) as read:
        (read or (lambda _: source.manifest()))(1)
    return caught.value.code


def test_reads_manifest_and_artifacts(tmp_path: Path) -> None:
    (tmp_path / "manifest.cose").write_bytes(b"m" * MAX_MANIFEST_SIZE)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json.enc").write_bytes(b"abcdef")
    source = FolderSource(str(tmp_path))
    assert source.manifest() == b"m" * MAX_MANIFEST_SIZE
    with source.open("1_Pooling/config.json") as read:
        assert [read(4), read(4), read(4)] == [b"abcd", b"ef", b""]


def test_missing(tmp_path: Path) -> None:
    assert refused(tmp_path) == "package.missing"
    assert refused(tmp_path / "absent") == "package.missing"
    assert refused(tmp_path, "model.safetensors") == "package.missing"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "", ".", "a\x00", "..\\secret"])
def test_no_way_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.enc").write_bytes(b"x")
    (tmp_path / "package").mkdir()
    assert refused(tmp_path / "package", name) == "artifact.name"


def test_sizes_are_capped(tmp_path: Path) -> None:
    (tmp_path / "manifest.cose").write_bytes(bytes(MAX_MANIFEST_SIZE + 1))
    assert refused(tmp_path) == "manifest.too_large"
    with (tmp_path / "a.enc").open("wb") as file:
        file.truncate(MAX_CIPHERTEXT_SIZE + 1)
    assert refused(tmp_path, "a") == "artifact.too_large"


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.cose")
    (tmp_path / "a.enc").mkdir()
    (tmp_path / "b.enc").symlink_to("b.enc")
    (tmp_path / "c.enc").symlink_to("/dev/zero")
    assert refused(tmp_path) == "package.unreadable"
    for name in "abc":
        assert refused(tmp_path, name) == "package.unreadable"


def test_a_failing_disk(tmp_path: Path) -> None:
    # A regular file whose reads end in EIO: address 0 is not mapped.
    (tmp_path / "manifest.cose").symlink_to("/proc/self/mem")
    (tmp_path / "a.enc").symlink_to("/proc/self/mem")
    assert refused(tmp_path) == "package.unreadable"
    assert refused(tmp_path, "a") == "package.unreadable"
