"""The S3 source against a local S3 that checks signatures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_package import BUCKET, DEK, HOST, OWNER, URL, WEIGHTS, AsPrincipal, MakePackage, Packed
from threads import in_threads

from ephemeralml.devcloud.s3 import S3Server
from ephemeralml.devcloud.sigv4 import Credential
from ephemeralml.errors import ConfigurationError, PackageError
from ephemeralml.host.s3 import reader as module
from ephemeralml.host.s3.client import Location
from ephemeralml.host.s3.object import Range
from ephemeralml.host.s3.source import S3Source
from ephemeralml.host.sources import source_of
from ephemeralml.package import FolderSource, Manifest, open_package


@pytest.fixture
def source(s3: S3Server, stored: Packed) -> S3Source:
    assert stored.signed
    return S3Source(URL, endpoint_url=s3.url)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 200_000)
    monkeypatch.setattr(module, "_PIECE_BYTES", 30_000)


def read(source: S3Source, *, start: int = 0, size: int | None = None, piece: int = 70_000) -> bytes:
    with source.open(WEIGHTS, start=start, size=size) as reader:
        pieces = list(iter(lambda: reader(piece), b""))
        assert reader(1) == b""
    assert all(0 < len(item) <= piece for item in pieces)
    return b"".join(pieces)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(PackageError) as caught:
        call()
    assert str(caught.value)
    return caught.value.code


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_package_opens_from_s3_as_from_its_folder(source: S3Source, package: Packed) -> None:
    assert source.manifest() == package.signed
    manifest = Manifest.verify(source.manifest(), owner=package.manifest.owner)
    opened = open_package(manifest, source=source, dek=DEK)
    expected = open_package(manifest, source=FolderSource(package.folder), dek=DEK)
    assert {name: bytes(data) for name, data in opened.items()} == {n: bytes(d) for n, d in expected.items()}


@pytest.mark.usefixtures("small_parts")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_is_byte_exact(source: S3Source, package: Packed, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(package.sealed) - 1))
    size = data.draw(st.none() | st.integers(0, len(package.sealed)))
    stop = None if size is None else start + size
    assert read(source, start=start, size=size) == package.sealed[start:stop]


@pytest.mark.usefixtures("small_parts")
def test_many_ranges_at_once_from_many_threads(source: S3Source, package: Packed) -> None:
    cuts: list[int | None] = [*range(0, len(package.sealed), 400_000), None]
    found: dict[int, bytes] = {}

    def one(number: int) -> None:
        start, stop = cuts[number], cuts[number + 1]
        assert start is not None
        found[start] = read(source, start=start, size=None if stop is None else stop - start)

    assert in_threads(len(cuts) - 1, one) == []
    assert b"".join(found[start] for start in sorted(found)) == package.sealed


@pytest.mark.usefixtures("small_parts")
def test_memory_is_bounded_whatever_is_opened_and_not_read(
    source: S3Source, package: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    weights = source._object(WEIGHTS)
    get = weights.get

    def counted(start: int, stop: int) -> Range:
        asked.append(start)
        return get(start, stop)

    monkeypatch.setattr(weights, "get", counted)
    with source.open(WEIGHTS) as first, source.open(WEIGHTS, start=100) as second, source.open(WEIGHTS) as third:
        # Each reader's own part, and what all together may have ahead.
        await_(lambda: len(asked) == 3 + module.PARTS_AHEAD)
        time.sleep(0.2)
        assert len(asked) == 3 + module.PARTS_AHEAD
        # Nobody waits for one who does not read.
        for reader, start in ((third, 0), (second, 100)):
            assert b"".join(iter(lambda: reader(1 << 20), b"")) == package.sealed[start:]  # noqa: B023
        assert first(10) == package.sealed[:10]
    assert source._ahead._value == module.PARTS_AHEAD


def test_what_comes_is_handed_on_before_the_rest(source: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 1000)
    with source.open(WEIGHTS) as reader:
        assert 0 < len(reader(1 << 20)) <= 1000


def test_a_reader_that_is_let_go_of_stops_its_downloads(source: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 100)
    for _ in range(20):
        with source.open(WEIGHTS) as reader:
            reader(1)
    await_(lambda: not [thread for thread in threading.enumerate() if thread.name == "s3"])
    assert source._ahead._value == module.PARTS_AHEAD


def test_an_artifact_replaced_in_the_middle_is_an_error_that_says_so(
    source: S3Source, owner: Any, package: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1_000_000)
    # One part at a time, so that the last is asked for after the change.
    source._ahead = threading.BoundedSemaphore(1)
    with source.open(WEIGHTS) as reader:
        reader(1)
        owner.put_object(Bucket=BUCKET, Key=package.key(), Body=package.sealed[::-1])
        with pytest.raises(PackageError, match="replaced after this process first read it") as caught:
            list(iter(lambda: reader(1 << 20), b""))
    assert caught.value.code == "s3.changed"
    # For the life of the source: it never becomes the other one.
    assert refusal(lambda: read(source)) == "s3.changed"


def test_a_version_pushed_meanwhile_changes_nothing_for_a_source(
    source: S3Source, s3: S3Server, owner: Any, package: Packed, make_package: MakePackage
) -> None:
    assert source.manifest() == package.signed
    owner.put_object(Bucket=BUCKET, Key="minilm/manifest.cose", Body=make_package(2).signed)
    assert source.manifest() == package.signed
    assert read(source) == package.sealed
    newer = S3Source(URL, endpoint_url=s3.url)
    assert Manifest.verify(newer.manifest(), owner=None).version == 2
    # Its artifacts are not there: nothing of the old version is taken for them.
    assert refusal(lambda: read(newer)) == "s3.access_denied"


def test_names_that_are_none(source: S3Source) -> None:
    for name in ("../secret", "/etc/passwd", "", "a\x00"):
        with pytest.raises(PackageError) as caught, source.open(name):
            pass
        assert caught.value.code == "artifact.name"
    with pytest.raises(PackageError) as caught, source.open("other.json"):
        pass
    assert caught.value.code == "artifact.unknown"


def test_a_start_after_the_end(source: S3Source, package: Packed, owner: Any) -> None:
    assert refusal(lambda: read(source, start=len(package.sealed))) == "s3.truncated"
    assert read(source) == package.sealed
    assert refusal(lambda: read(source, start=len(package.sealed))) == "s3.truncated"
    owner.put_object(Bucket=BUCKET, Key=package.key("config.json"), Body=b"")
    with pytest.raises(PackageError) as caught, source.open("config.json"):
        pass
    assert caught.value.code == "s3.truncated"


def test_sizes_are_capped(s3: S3Server, owner: Any, package: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.put_object(Bucket=BUCKET, Key="minilm/manifest.cose", Body=bytes(32 * 1024 + 1))
    assert refusal(lambda: S3Source(URL, endpoint_url=s3.url).manifest()) == "manifest.too_large"
    owner.put_object(Bucket=BUCKET, Key="minilm/manifest.cose", Body=package.signed)
    owner.put_object(Bucket=BUCKET, Key=package.key(), Body=package.sealed)
    monkeypatch.setattr("ephemeralml.host.s3.source.MAX_CIPHERTEXT_SIZE", len(package.sealed) - 1)
    assert refusal(lambda: read(S3Source(URL, endpoint_url=s3.url))) == "artifact.too_large"


def test_a_manifest_that_is_none(s3: S3Server, owner: Any) -> None:
    owner.put_object(Bucket=BUCKET, Key="minilm/manifest.cose", Body=b"x")
    assert refusal(lambda: S3Source(URL, endpoint_url=s3.url).manifest()) == "manifest.malformed"


def test_who_may_not(s3: S3Server, stored: Packed, as_principal: AsPrincipal, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(url: str = URL) -> str:
        return refusal(lambda: S3Source(url, endpoint_url=s3.url).manifest())

    assert stored.signed
    # Whoever may not list the bucket does not learn what is missing.
    assert code(f"s3://{BUCKET}/other") == "s3.access_denied"
    assert code("s3://another/minilm") == "s3.no_bucket"
    as_principal(OWNER)
    assert code(f"s3://{BUCKET}/other") == "s3.missing"
    as_principal(Credential(HOST.access_key_id, "wrong", HOST.principal_arn))
    assert code() == "s3.credentials"
    as_principal(Credential("AKIDNOBODY", "wrong", HOST.principal_arn))
    assert code() == "s3.credentials"
    as_principal(HOST)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert code() == "s3.credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert code() == "s3.credentials"


@pytest.mark.parametrize(
    ("url", "bucket", "manifest"),
    [
        ("s3://models", "models", "manifest.cose"),
        ("s3://models/", "models", "manifest.cose"),
        ("s3://my.models-1/a/b_c-1.0/", "my.models-1", "a/b_c-1.0/manifest.cose"),
    ],
)
def test_places_in_s3(url: str, bucket: str, manifest: str) -> None:
    location = Location.parse(url)
    assert (location.bucket, location.manifest) == (bucket, manifest)


@pytest.mark.parametrize(
    "url",
    [
        *("s3://", "s3:///a", "s3://A/b", "S3://models/a", "http://models/a", "s3://models/../a", "s3://models//a"),
        *("s3://models/a/./b", "s3://models/a b", "s3://models/a?b", "s3://models/a\n", "s3://models/" + "a" * 256),
    ],
)
def test_places_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        S3Source(url)
    assert caught.value.code == "s3.url"


def test_an_endpoint_that_is_none() -> None:
    with pytest.raises(ConfigurationError) as caught:
        S3Source(URL, endpoint_url="not a url")
    assert caught.value.code == "s3.client"


def test_what_an_operator_writes(s3: S3Server, stored: Packed, tmp_path: Path) -> None:
    assert source_of(URL, s3_endpoint=s3.url).manifest() == stored.signed
    assert source_of(str(stored.folder)).manifest() == stored.signed
    assert refusal(source_of(str(tmp_path / "s3:")).manifest) == "package.missing"
