"""Whole packages on disk, damaged as a hostile host could."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeralml.errors import PackageError
from ephemeralml.package import FolderSource, Manifest, open_package
from ephemeralml.package.stream import CHUNK_SIZE, HEADER_SIZE, TAG_SIZE

from .conftest import Packed

WEIGHTS = "model.safetensors.enc"
BOX = CHUNK_SIZE + TAG_SIZE


def refused(package: Packed, *, dek: bytes | None = None, folder: Path | None = None) -> str:
    source = FolderSource(folder or package.folder)
    with pytest.raises(PackageError) as caught:
        open_package(package.manifest, source=source, dek=package.dek if dek is None else dek)
    return caught.value.code


def test_open(package: Packed, model: Path, owner: bytes) -> None:
    manifest = Manifest.verify(package.source.manifest(), owner=owner)
    files = open_package(manifest, source=package.source, dek=package.dek)
    assert list(files) == [artifact.name for artifact in manifest.artifacts]
    assert all(bytes(content) == (model / name).read_bytes() for name, content in files.items())


def edit(package: Packed, change: Callable[[bytes], bytes], name: str = WEIGHTS) -> None:
    path = package.folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[: HEADER_SIZE + BOX], "truncated"),
        (lambda data: data[:HEADER_SIZE], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: data + b"\x00", "extended"),
        (lambda data: b"\x00" + data[1:], "header"),
        (lambda data: data[: HEADER_SIZE - 1] + b"\xff" + data[HEADER_SIZE:], "header"),
        (lambda data: data[:HEADER_SIZE] + bytes([data[HEADER_SIZE] ^ 1]) + data[HEADER_SIZE + 1 :], "authentication"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 128]), "authentication"),
        (
            lambda data: (
                data[:HEADER_SIZE]
                + data[HEADER_SIZE + BOX : HEADER_SIZE + 2 * BOX]
                + data[HEADER_SIZE : HEADER_SIZE + BOX]
                + data[HEADER_SIZE + 2 * BOX :]
            ),
            "authentication",
        ),
    ],
)
def test_damage(package: Packed, change: Callable[[bytes], bytes], code: str) -> None:
    edit(package, change)
    assert refused(package) == f"artifact.{code}"


def test_missing_artifact(package: Packed) -> None:
    (package.folder / "vocab.txt.enc").unlink()
    assert refused(package) == "package.missing"


def test_wrong_key(package: Packed) -> None:
    assert refused(package, dek=bytes(32)) == "artifact.authentication"
    assert refused(package, dek=b"") == "package.dek"


def test_swapped_artifacts(package: Packed) -> None:
    first, second = package.folder / "config.json.enc", package.folder / "tokenizer.json.enc"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert refused(package) == "artifact.header"


def test_swapped_packages(make_package: Callable[[str], Packed]) -> None:
    one, two = make_package("one"), make_package("two")
    assert refused(one, folder=two.folder) == "artifact.header"
    shutil.copy(two.folder / WEIGHTS, one.folder / WEIGHTS)
    assert refused(one) == "artifact.header"


def test_what_was_opened_before_a_failure_is_wiped(package: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[str] = []
    monkeypatch.setitem(open_package.__globals__, "wipe", wiped.extend)
    edit(package, lambda data: data + b"\x00", "tokenizer.json.enc")
    assert refused(package) == "artifact.extended"
    assert wiped == ["tokenizer.json", "model.safetensors", "config.json"]
