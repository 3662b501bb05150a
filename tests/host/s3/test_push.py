"""Publishing a package in S3: whole or not at all, never backwards, never twice."""

from __future__ import annotations

import _thread
import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from s3_package import BUCKET, DEK, HOST, OWNER, URL, WEIGHTS, AsPrincipal, MakePackage, Packed

from ephemeralml.devcloud.s3 import S3Server
from ephemeralml.errors import ConfigurationError, PackageError
from ephemeralml.host.s3 import push as module
from ephemeralml.host.s3.push import Pushed, push
from ephemeralml.host.s3.source import S3Source
from ephemeralml.package import Manifest, open_package

MANIFEST = "minilm/manifest.cose"


@pytest.fixture(autouse=True)
def as_owner(as_principal: AsPrincipal) -> None:
    as_principal(OWNER)


@pytest.fixture(scope="module")
def newer(make_package: MakePackage) -> Packed:
    """Version 2, large enough for an upload in several parts."""
    return make_package(2, size=20_000_000)


@pytest.fixture
def publish(s3: S3Server) -> Callable[..., Pushed]:
    return lambda package, **options: push(package.folder, URL, endpoint_url=s3.url, **options)


@pytest.fixture
def copy(package: Packed, tmp_path: Path) -> Packed:
    """The package in a folder that may be damaged."""
    shutil.copytree(package.folder, tmp_path / "copy")
    return dataclasses.replace(package, folder=tmp_path / "copy")


@pytest.fixture(params=["a version before", "nothing before"])
def before(request: pytest.FixtureRequest, publish: Callable[..., Pushed], package: Packed) -> Packed | None:
    """What is in force when the test begins."""
    if request.param == "nothing before":
        return None
    publish(package)
    return package


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(PackageError) as caught:
        call()
    assert str(caught.value)
    return caught.value.code


def in_force(s3: S3Server) -> Manifest:
    """The version that opens from S3, all of it."""
    source = S3Source(URL, endpoint_url=s3.url)
    manifest = Manifest.verify(source.manifest(), owner=None)
    open_package(manifest, source=source, dek=DEK)
    return manifest


def uploads(tmp_path: Path) -> list[str]:
    """The multipart uploads under way, as the server has them."""
    return [path.name for path in (tmp_path / "s3" / BUCKET / "uploads").iterdir()]


def test_a_first_push_and_the_same_again(s3: S3Server, publish: Callable[..., Pushed], package: Packed) -> None:
    seen: list[tuple[int, int]] = []
    done = publish(package, progress=lambda *state: seen.append(state))
    size = sum(artifact.ciphertext_size for artifact in package.manifest.artifacts)
    assert (done.uploaded, done.published, done.before) == (size, True, None)
    assert seen[-1] == (size, size)
    assert in_force(s3) == package.manifest
    again = publish(package)
    assert (again.uploaded, again.published, again.before) == (0, False, None)


def test_a_higher_version_replaces_a_lower_one_and_touches_nothing_of_it(
    s3: S3Server, publish: Callable[..., Pushed], package: Packed, newer: Packed
) -> None:
    publish(package)
    old = S3Source(URL, endpoint_url=s3.url)
    assert old.manifest() == package.signed
    assert publish(newer).before == 1
    assert in_force(s3) == newer.manifest
    # A host that has begun with the old one goes on with it.
    open_package(package.manifest, source=old, dek=DEK)
    assert refusal(lambda: publish(package)) == "push.version"
    assert in_force(s3) == newer.manifest


def test_what_is_refused_beside_a_version_in_force(
    s3: S3Server,
    owner: Any,
    publish: Callable[..., Pushed],
    package: Packed,
    make_package: MakePackage,
) -> None:
    publish(package)
    others = {
        "push.version": make_package(1),
        "push.model": make_package(2, model_id="other"),
        "push.owner": make_package(2, key=Ed25519PrivateKey.generate()),
    }
    for code, other in others.items():
        assert refusal(lambda: publish(other)) == code  # noqa: B023
        assert in_force(s3) == package.manifest
    owner.put_object(Bucket=BUCKET, Key=MANIFEST, Body=b"something else")
    assert refusal(lambda: publish(package)) == "push.occupied"
    assert owner.get_object(Bucket=BUCKET, Key=MANIFEST)["Body"].read() == b"something else"


def test_files_are_checked_before_anything_is_asked_of_s3(copy: Packed, newer: Packed) -> None:
    nowhere = "http://127.0.0.1:9"

    def code() -> str:
        return refusal(lambda: push(copy.folder, URL, endpoint_url=nowhere))

    weights = copy.folder / f"{WEIGHTS}.enc"
    sealed = weights.read_bytes()
    weights.write_bytes(sealed[:-1])
    assert code() == "package.size"
    # Of the right size, and of another package.
    weights.write_bytes((newer.folder / f"{WEIGHTS}.enc").read_bytes()[: len(sealed)])
    assert code() == "package.mixed"
    weights.unlink()
    assert code() == "package.missing"
    weights.mkdir()
    assert code() == "package.unreadable"
    (copy.folder / "manifest.cose").write_bytes(b"x")
    assert code() == "manifest.malformed"


def test_an_interrupted_push_leaves_the_old_version_and_no_upload(
    s3: S3Server, publish: Callable[..., Pushed], before: Packed | None, newer: Packed, tmp_path: Path
) -> None:
    begun: list[int] = []

    def interrupt(done: int, _: int) -> None:
        if done and not begun:
            begun.append(len(uploads(tmp_path)))
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        publish(newer, progress=interrupt)
    assert begun == [1]
    assert uploads(tmp_path) == []
    if before:
        assert in_force(s3) == before.manifest
    else:
        assert refusal(S3Source(URL, endpoint_url=s3.url).manifest) == "s3.missing"
    publish(newer)
    assert in_force(s3) == newer.manifest


def test_a_push_goes_on_from_what_an_interrupted_one_left(
    s3: S3Server, owner: Any, publish: Callable[..., Pushed], package: Packed
) -> None:
    owner.put_object(Bucket=BUCKET, Key=package.key(), Body=package.sealed, ChecksumAlgorithm="SHA256")
    done = publish(package)
    assert done.published
    assert 0 < done.uploaded < 1000
    assert in_force(s3) == package.manifest


def test_wrong_bytes_of_the_right_length_in_an_artifacts_place_are_not_published(
    s3: S3Server, owner: Any, publish: Callable[..., Pushed], package: Packed, newer: Packed
) -> None:
    for packed in (package, newer):
        # Without a checksum of ours; with one, which is the wrong bytes' own; in the parts that a push makes.
        for extra in ({}, {"ChecksumAlgorithm": "SHA256"}):
            owner.upload_fileobj(io.BytesIO(packed.sealed[::-1]), BUCKET, packed.key(), ExtraArgs=extra)
            assert publish(packed).uploaded >= len(packed.sealed)
            assert in_force(s3) == packed.manifest


def test_something_else_in_an_artifacts_place_is_replaced(
    s3: S3Server, owner: Any, publish: Callable[..., Pushed], package: Packed
) -> None:
    owner.put_object(Bucket=BUCKET, Key=package.key(), Body=b"x")
    assert publish(package).published
    assert in_force(s3) == package.manifest


def test_what_takes_an_artifacts_place_behind_its_upload_is_not_published(
    s3: S3Server, owner: Any, publish: Callable[..., Pushed], package: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there = module._Push.is_there
    asked = []

    def overtaken(self: Any, artifact: Any, checksum: str) -> bool:
        asked.append(artifact.name)
        if asked.count(WEIGHTS) == 2:
            owner.put_object(Bucket=BUCKET, Key=package.key(), Body=package.sealed[::-1], ChecksumAlgorithm="SHA256")
        return is_there(self, artifact, checksum)

    monkeypatch.setattr(module._Push, "is_there", overtaken)
    assert refusal(lambda: publish(package)) == "push.artifact"
    assert refusal(S3Source(URL, endpoint_url=s3.url).manifest) == "s3.missing"


def test_a_file_that_changes_while_it_is_uploaded_is_not_published(
    s3: S3Server, publish: Callable[..., Pushed], copy: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = module._Push.upload

    def change(self: Any, *arguments: Any) -> None:
        (copy.folder / f"{WEIGHTS}.enc").write_bytes(b"x")
        upload(self, *arguments)

    monkeypatch.setattr(module._Push, "upload", change)
    assert refusal(lambda: publish(copy)) == "push.artifact"
    assert refusal(S3Source(URL, endpoint_url=s3.url).manifest) == "s3.missing"


@pytest.mark.usefixtures("before")
def test_of_two_pushers_at_once_one_is_told(
    s3: S3Server, publish: Callable[..., Pushed], make_package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_package(2), make_package(3)
    upload = module._Push.upload

    def another_is_quicker(self: Any, *arguments: Any) -> None:
        monkeypatch.setattr(module._Push, "upload", upload)
        publish(first)
        upload(self, *arguments)

    monkeypatch.setattr(module._Push, "upload", another_is_quicker)
    assert refusal(lambda: publish(second)) == "push.overtaken"
    assert in_force(s3) == first.manifest
    assert publish(second).before == 2


def test_a_manifest_whose_answer_got_lost_is_published_all_the_same(
    owner: Any, publish: Callable[..., Pushed], package: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = module._Push.upload

    def already(self: Any, *arguments: Any) -> None:
        upload(self, *arguments)
        owner.put_object(Bucket=BUCKET, Key=MANIFEST, Body=package.signed)

    monkeypatch.setattr(module._Push, "upload", already)
    assert publish(package).published


def test_who_may_only_read(s3: S3Server, package: Packed, stored: Packed, as_principal: AsPrincipal) -> None:
    as_principal(HOST)
    # What is there already asks for no right to write.
    assert not push(stored.folder, URL, endpoint_url=s3.url).published
    assert refusal(lambda: push(package.folder, f"{URL}/other", endpoint_url=s3.url)) == "s3.access_denied"
    as_principal(OWNER)
    assert refusal(lambda: push(package.folder, "s3://another", endpoint_url=s3.url)) == "s3.no_bucket"


def test_a_place_that_is_none(package: Packed) -> None:
    with pytest.raises(ConfigurationError) as caught:
        push(package.folder, "models/minilm")
    assert caught.value.code == "s3.url"
