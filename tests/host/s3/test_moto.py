"""The same against an S3 that somebody else wrote."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from s3_package import BUCKET, DEK, URL, WEIGHTS, MakePackage, Packed

from ephemeralml.errors import PackageError
from ephemeralml.host.s3 import reader
from ephemeralml.host.s3.push import push
from ephemeralml.host.s3.source import S3Source
from ephemeralml.package import Manifest, open_package


def test_push_read_replace(
    moto: str, package: Packed, make_package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PART_BYTES", 500_000)
    newer = make_package(2, size=20_000_000)
    assert push(package.folder, URL, endpoint_url=moto).published
    assert not push(package.folder, URL, endpoint_url=moto).published
    old = S3Source(URL, endpoint_url=moto)
    assert old.manifest() == package.signed
    assert push(newer.folder, URL, endpoint_url=moto).before == 1
    for source, version in ((old, 1), (S3Source(URL, endpoint_url=moto), 2)):
        manifest = Manifest.verify(source.manifest(), owner=None)
        assert manifest.version == version
        open_package(manifest, source=source, dek=DEK)
    with pytest.raises(PackageError) as caught:
        push(package.folder, URL, endpoint_url=moto)
    assert caught.value.code == "push.version"


def test_what_is_missing_or_changes(moto: str, package: Packed) -> None:
    client: Any = boto3.session.Session().client("s3", endpoint_url=moto)
    for url, code in ((URL, "s3.missing"), ("s3://another", "s3.no_bucket")):
        with pytest.raises(PackageError) as caught:
            S3Source(url, endpoint_url=moto).manifest()
        assert caught.value.code == code
    push(package.folder, URL, endpoint_url=moto)
    source = S3Source(URL, endpoint_url=moto)
    with source.open(WEIGHTS, start=17, size=100) as read:
        assert read(1000) == package.sealed[17:117]
    client.put_object(Bucket=BUCKET, Key=package.key(), Body=package.sealed[::-1])
    with pytest.raises(PackageError) as caught, source.open(WEIGHTS):
        pass
    assert caught.value.code == "s3.changed"
    client.close()
