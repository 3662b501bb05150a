"""The same package under another key: the files stay, the manifest is new, and whatever goes wrong leaves nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.errors import KeyReleaseError, PackageError
from ephemeralml.package import FolderSource, KeyRecord, Manifest, open_package

from .conftest import NEW_ARN, NewKey, Packed, Run, refusal


@pytest.fixture
def run(rewrapping: Run) -> Run:
    return rewrapping


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_the_manifest_changes(run: Run, package: Packed, out: Path, owner: bytes, new_key: NewKey) -> None:
    start = int(time.time())
    manifest = run()
    before, after = files(package.folder), files(out)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"manifest.cose"}
    assert new_key.asked == [package.manifest.key]
    assert manifest == dataclasses.replace(
        package.manifest,
        version=package.manifest.version + 1,
        created_at=manifest.created_at,
        key=dataclasses.replace(package.manifest.key, key_arn=NEW_ARN, wrapped_dek=b"wrapped anew"),
    )
    assert start <= manifest.created_at <= time.time()
    assert Manifest.verify(FolderSource(out).manifest(), owner=owner) == manifest
    assert manifest.digest != package.manifest.digest
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_old_and_new_open_with_the_same_dek(run: Run, package: Packed, out: Path) -> None:
    def opened(manifest: Manifest, folder: Path) -> dict[str, bytes]:
        files = open_package(manifest, source=FolderSource(folder), dek=package.dek)
        return {name: bytes(content) for name, content in files.items()}

    manifest = run()
    before = opened(package.manifest, package.folder)
    assert opened(manifest, out) == before
    # Nothing of the old one is shared: it may be changed or removed.
    for path in package.folder.rglob("*.enc"):
        path.write_bytes(b"")
    assert opened(manifest, out) == before


def test_the_version_is_above_the_old_one(run: Run, package: Packed, out: Path, new_key: NewKey) -> None:
    """A floor at the new version must shut out the manifest under the old key."""
    assert package.manifest.version == 1
    for version in (0, 1):
        with refusal(out, PackageError, "package.version"):
            run(version=version)
    with refusal(out, PackageError, "manifest.malformed"):
        run(version=2**63)
    assert new_key.asked == []
    seventh = run(version=7)
    assert seventh.version == 7
    assert run(source=FolderSource(out), digest=seventh.digest, out=out.with_name("next")).version == 8


def test_a_rollback_is_not_signed(run: Run, package: Packed, out: Path, new_key: NewKey, owner: bytes) -> None:
    """An older package of the same owner, put where the newer one was, must not become the newest version."""
    newer = run()
    shutil.rmtree(out)
    shutil.copytree(package.folder, out)
    assert Manifest.verify(FolderSource(out).manifest(), owner=owner).version < newer.version
    new_key.asked.clear()
    for wrong in (newer.digest, bytes(32), b"", package.manifest.digest[:-1]):
        with refusal(out, PackageError, "package.digest"):
            run(source=FolderSource(out), digest=wrong, out=out.with_name("next"))
    assert new_key.asked == []


def test_another_owner_s_package_is_not_signed(run: Run, out: Path, new_key: NewKey) -> None:
    with refusal(out, PackageError, "manifest.owner"):
        run(owner_key=Ed25519PrivateKey.generate())
    assert new_key.asked == []


def test_a_forged_manifest_is_not_signed(run: Run, package: Packed, out: Path, new_key: NewKey) -> None:
    """What the host put in the package's place must not get the owner's signature."""
    path = package.folder / "manifest.cose"
    signed = path.read_bytes()
    path.write_bytes(signed[:-1] + bytes([signed[-1] ^ 1]))
    with refusal(out, PackageError, "manifest.signature"):
        run()
    path.unlink()
    with refusal(out, PackageError, "package.missing"):
        run()
    assert new_key.asked == []


@pytest.mark.parametrize(
    "changes",
    [{"key_arn": NEW_ARN.replace("key/", "alias/")}, {"encryption_context": {"a": "b"}}, {"wrapped_dek": b""}],
)
def test_what_the_key_service_gives_is_checked(run: Run, out: Path, new_key: NewKey, changes: dict[str, Any]) -> None:
    new_key.changes = changes
    with refusal(out, PackageError, "manifest.malformed"):
        run()


def test_a_refusal_of_the_key_service(run: Run, out: Path) -> None:
    class Refusing:
        def rewrap(self, record: KeyRecord) -> KeyRecord:
            raise KeyReleaseError("KMS refused", code="kms.access_denied")

    with refusal(out, KeyReleaseError, "kms.access_denied"):
        run(keys=Refusing())


def test_in_place_is_refused(run: Run, package: Packed) -> None:
    before = files(package.folder)
    with pytest.raises(PackageError) as caught:
        run(out=package.folder)
    assert caught.value.code == "package.exists"
    assert files(package.folder) == before


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: path.unlink(), "package.missing"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "artifact.truncated"),
        (lambda path: os.truncate(path, 30), "artifact.truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "artifact.extended"),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "artifact.header"),
        (lambda path: shutil.copy(path.with_name("config.json.enc"), path), "artifact.header"),
    ],
    ids=["missing", "truncated", "truncated header", "extended", "header", "another artifact"],
)
def test_a_package_that_is_not_whole_is_not_copied(
    run: Run, package: Packed, out: Path, damage: Callable[[Path], object], code: str
) -> None:
    damage(package.folder / "tokenizer.json.enc")
    with refusal(out, PackageError, code):
        run()


@pytest.mark.parametrize("moment", [0, 1, 4])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_interruptions_leave_nothing(
    run: Run, package: Packed, out: Path, moment: int, failure: type[BaseException]
) -> None:
    class Interrupting(FolderSource):
        opened = 0

        @contextmanager
        def open(self, name: str) -> Iterator[Callable[[int], bytes | memoryview]]:
            with super().open(name) as read:

                def interrupted(size: int) -> bytes | memoryview:
                    if self.opened > moment:
                        raise failure
                    return read(size)

                self.opened += 1
                yield interrupted

    before = sorted(out.parent.iterdir())
    with pytest.raises(failure):
        run(source=Interrupting(package.folder))
    assert sorted(out.parent.iterdir()) == before
