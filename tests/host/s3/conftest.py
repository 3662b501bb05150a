"""A local S3 with two principals, a package in it, and boto3 for whoever tampers."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from moto.server import ThreadedMotoServer
from s3_package import BUCKET, HOST, OWNER, SPEC, WEIGHTS, AsPrincipal, Keys, MakePackage, Packed

from ephemeralml.devcloud.s3 import S3Server
from ephemeralml.devcloud.sigv4 import Credential
from ephemeralml.package import pack


@pytest.fixture(scope="session")
def owner_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory, owner_key: Ed25519PrivateKey) -> MakePackage:
    """Packs random weights of `size` bytes as `version`."""

    def make(
        version: int = 1, *, size: int = 3_000_000, model_id: str = "minilm", key: Ed25519PrivateKey = owner_key
    ) -> Packed:
        model = tmp_path_factory.mktemp("model")
        (model / WEIGHTS).write_bytes(os.urandom(size))
        (model / "1_Pooling").mkdir()
        for name in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
            (model / name).write_text("{}")
        out = model / "package"
        manifest = pack(model, out, owner_key=key, version=version, keys=Keys(), spec=SPEC, model_id=model_id)
        return Packed(out, manifest)

    return make


@pytest.fixture(scope="session")
def package(make_package: MakePackage) -> Packed:
    return make_package()


@pytest.fixture
def as_principal(monkeypatch: pytest.MonkeyPatch) -> AsPrincipal:
    """Makes boto3's default chain that principal's."""

    def use(credential: Credential) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", credential.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credential.secret_access_key)

    return use


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, as_principal: AsPrincipal, tmp_path: Path) -> None:
    """The host's credentials, and nothing else of AWS's that this machine may have."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    as_principal(HOST)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3", buckets=[BUCKET], writers=[OWNER], readers=[HOST]) as server:
        yield server


@pytest.fixture
def owner(s3: S3Server) -> Iterator[Any]:
    """boto3's client of the model owner."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=s3.url,
        region_name="us-east-1",
        aws_access_key_id=OWNER.access_key_id,
        aws_secret_access_key=OWNER.secret_access_key,
    )
    yield client
    client.close()


@pytest.fixture
def stored(owner: Any, package: Packed) -> Packed:
    """The package, where `push` would put it."""
    owner.put_object(Bucket=BUCKET, Key="minilm/manifest.cose", Body=package.signed)
    for artifact in package.manifest.artifacts:
        with (package.folder / f"{artifact.name}.enc").open("rb") as file:
            owner.upload_fileobj(file, BUCKET, package.key(artifact.name), ExtraArgs={"ChecksumAlgorithm": "SHA256"})
    return package


@pytest.fixture
def moto() -> Iterator[str]:
    """Somebody else's S3, with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # Its buckets outlive a server.
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    client = boto3.session.Session().client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket=BUCKET)
    yield f"http://{host}:{port}"
    client.close()
    server.stop()


@pytest.fixture
def moto_client(moto: str) -> Iterator[Any]:
    client = boto3.session.Session().client("s3", endpoint_url=moto)
    yield client
    client.close()
