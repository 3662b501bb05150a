from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from ephemeralml.errors import KeyReleaseError, ModelError, PackageError
from ephemeralml.package import DataKey, FolderSource, Manifest, open_package
from ephemeralml.package.stream import CHUNK_SIZE, ciphertext_size

from .conftest import RandomKeys, Run, refusal


@pytest.fixture
def run(packing: Run) -> Run:
    return packing


def test_pack(run: Run, model: Path, out: Path, keys: RandomKeys, owner: bytes) -> None:
    start = int(time.time())
    manifest = run(license="Apache-2.0")
    assert (manifest.model_id, manifest.version, manifest.license) == ("test/model", 7, "Apache-2.0")
    assert (manifest.owner, manifest.spec.dimension) == (owner, 384)
    assert start <= manifest.created_at <= time.time()
    context = {"ephemeralml:package": manifest.package_id.hex(), "ephemeralml:model": "test/model"}
    assert keys.contexts == [context]
    assert manifest.key.encryption_context == context
    assert (manifest.key.key_arn, manifest.key.wrapped_dek) == (keys.key_arn, b"wrapped")

    source = FolderSource(out)
    assert Manifest.verify(source.manifest(), owner=owner) == manifest
    opened = open_package(manifest, source=source, dek=keys.dek)
    assert sorted(opened) == sorted(
        str(path.relative_to(model))
        for path in model.rglob("*")
        if path.is_file() and path.name not in {"README.md", "pytorch_model.bin"}
    )
    for artifact in manifest.artifacts:
        assert bytes(opened[artifact.name]) == (model / artifact.name).read_bytes()
        assert (out / f"{artifact.name}.enc").stat().st_size == artifact.ciphertext_size
        assert artifact.ciphertext_size == ciphertext_size(artifact.size, CHUNK_SIZE)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert len(list(out.rglob("*"))) == len(manifest.artifacts) + 2  # the manifest and 1_Pooling


def test_nothing_of_the_model_shows(run: Run, model: Path, out: Path, keys: RandomKeys) -> None:
    run()
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    weights = (model / "model.safetensors").read_bytes()
    assert keys.dek not in written
    for start in range(0, len(weights) - 32, 100_000):
        assert weights[start : start + 32] not in written
    assert b'"file"' not in written


def test_every_package_has_its_own_salts_and_id(run: Run, out: Path) -> None:
    one, two = run(), run(out=out.with_name("two"))
    salts = [artifact.salt for manifest in (one, two) for artifact in manifest.artifacts]
    assert len(set(salts)) == len(salts)
    assert one.package_id != two.package_id


def test_progress(run: Run, model: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = run(progress=lambda done, total: seen.append((done, total)))
    total = sum(artifact.size for artifact in manifest.artifacts)
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert all(after[0] - before[0] <= CHUNK_SIZE for before, after in pairwise(seen))


def test_only_what_must_be_there_is_needed(run: Run, model: Path) -> None:
    for path in model.iterdir():
        if path.name not in {"model.safetensors", "config.json", "tokenizer.json"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    names = [artifact.name for artifact in run().artifacts]
    assert sorted(names) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_missing_files_are_named(run: Run, model: Path, out: Path, keys: RandomKeys, name: str) -> None:
    (model / name).unlink()
    with refusal(out, ModelError, "model.missing"):
        run()
    with pytest.raises(ModelError, match=name):
        run()
    assert keys.contexts == []


@pytest.mark.parametrize(("name", "instead"), [("absent", "nothing"), ("model/config.json", "a file")])
def test_no_folder_at_all(run: Run, model: Path, out: Path, name: str, instead: str) -> None:
    path = model.parent / name
    with refusal(out, ModelError, "model.missing"):
        run(folder=path)
    with pytest.raises(ModelError, match=f"no model folder at {path}: {instead} is there"):
        run(folder=path)


def test_links_as_hugging_face_caches_make_them(
    run: Run, model: Path, tmp_path: Path, out: Path, keys: RandomKeys
) -> None:
    blob = tmp_path / "blob"
    (model / "model.safetensors").rename(blob)
    (model / "model.safetensors").symlink_to(Path("..") / "blob")
    opened = open_package(run(), source=FolderSource(out), dek=keys.dek)
    assert bytes(opened["model.safetensors"]) == blob.read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_a_dangling_link_is_an_incomplete_download(run: Run, model: Path, out: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).symlink_to("absent")
    with refusal(out, ModelError, "model.missing"):
        run()


def test_only_regular_files(run: Run, model: Path, out: Path) -> None:
    (model / "vocab.txt").unlink()
    os.mkfifo(model / "vocab.txt")
    with refusal(out, ModelError, "model.not_a_file"):
        run()
    (model / "vocab.txt").unlink()
    (model / "vocab.txt").symlink_to("/dev/zero")
    with refusal(out, ModelError, "model.not_a_file"):
        run()


def test_too_large(run: Run, model: Path, out: Path, keys: RandomKeys) -> None:
    os.truncate(model / "model.safetensors", (4 << 30) + 1)
    with refusal(out, PackageError, "package.too_large"):
        run()
    assert keys.contexts == []


def test_out_is_looked_at_before_the_model(run: Run, out: Path) -> None:
    out.mkdir()
    with refusal(out, PackageError, "package.exists"):
        run(folder="/absent")


def test_out_appears_meanwhile(run: Run, out: Path) -> None:
    def appear(done: int, total: int) -> None:
        if done == total:
            out.mkdir(exist_ok=True)
            (out / "mine").touch()

    with pytest.raises(PackageError) as caught:
        run(progress=appear)
    assert caught.value.code == "package.exists"
    assert [path.name for path in out.parent.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize("change", [{"version": 0}, {"model_id": ""}, {"license": "\n"}])
def test_bad_arguments_are_refused_before_a_key_is_asked_for(
    run: Run, out: Path, keys: RandomKeys, change: dict[str, object]
) -> None:
    with refusal(out, PackageError, "manifest.malformed"):
        run(**change)
    assert keys.contexts == []


def test_what_the_key_provider_gives_is_checked(run: Run, out: Path, keys: RandomKeys) -> None:
    keys.size = 16
    with refusal(out, PackageError, "package.dek"):
        run()
    keys.size = 32
    keys.key_arn = "arn:aws:kms:us-east-1:111122223333:alias/model"
    with refusal(out, PackageError, "manifest.malformed"):
        run()


def test_the_key_provider_fails(run: Run, out: Path) -> None:
    class Failing:
        def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
            raise KeyReleaseError("the KMS cannot be reached", code="kms.unreachable")

    with refusal(out, KeyReleaseError, "kms.unreachable"):
        run(keys=Failing())


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_interruptions_leave_nothing(run: Run, out: Path, moment: float, failure: type[BaseException]) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= moment * total:
            raise failure

    with refusal(out, failure):
        run(progress=interrupt)


@pytest.mark.parametrize("change", ["grow", "shrink", "same size", "replace"])
def test_a_file_that_changes_meanwhile(run: Run, model: Path, out: Path, change: str) -> None:
    weights = model / "model.safetensors"

    def alter(done: int, total: int) -> None:
        if done != CHUNK_SIZE:
            return
        if change == "grow":
            with weights.open("ab") as file:
                file.write(b"x")
        elif change == "shrink":
            os.truncate(weights, CHUNK_SIZE + 1)
        elif change == "same size":
            with weights.open("r+b") as file:
                file.write(b"x")
        else:
            (model / "tokenizer.json").rename(model / "old.json")
            shutil.copy2(model / "old.json", model / "tokenizer.json")

    with refusal(out, ModelError, "model.changed"):
        run(progress=alter)


def test_memory_is_bounded(run: Run, model: Path) -> None:
    os.truncate(model / "model.safetensors", 64 << 20)
    tracemalloc.start()
    try:
        run()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_contents_in_place_of_the_folder_s(run: Run, model: Path, out: Path, keys: RandomKeys) -> None:
    kept = (model / "model.safetensors").read_bytes()
    manifest = run(replaced={"model.safetensors": b"converted"})
    opened = open_package(manifest, source=FolderSource(out), dek=keys.dek)
    assert bytes(opened["model.safetensors"]) == b"converted"
    assert bytes(opened["config.json"]) == (model / "config.json").read_bytes()
    assert manifest.artifact("model.safetensors").size == len(b"converted")
    assert (model / "model.safetensors").read_bytes() == kept


def test_only_files_of_a_package_are_replaced(run: Run, out: Path, keys: RandomKeys) -> None:
    with pytest.raises(ValueError, match="replaced"):
        run(replaced={"pytorch_model.bin": b""})
    assert not out.exists()
    assert not keys.contexts
