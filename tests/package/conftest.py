"""A small model folder, a key provider that hands out random keys, and packages made from them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.package import (
    Artifact,
    DataKey,
    FolderSource,
    KeyRecord,
    Manifest,
    ModelSpec,
    encryption_context,
    pack,
    rewrap,
    stream,
)

KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NEW_ARN = "arn:aws:kms:us-east-1:111122223333:key/9999abcd-12ab-34cd-56ef-1234567890ab"
SPEC = ModelSpec(architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=256, dimension=384)


@dataclass
class RandomKeys:
    """A `KeyProvider` that remembers what it was asked and what it gave."""

    key_arn: str = KEY_ARN
    provider: str = "aws-kms"
    size: int = 32
    wrapped: bytes = b"wrapped"
    contexts: list[Mapping[str, str]] = field(default_factory=list)
    dek: bytes = b""

    def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
        self.contexts.append(encryption_context)
        self.dek = os.urandom(self.size)
        return DataKey(plaintext=self.dek, wrapped=self.wrapped, key_arn=self.key_arn, provider=self.provider)


@dataclass
class NewKey:
    """A `KeyRewrapper` that remembers what it was asked; `changes` are its mistakes."""

    asked: list[KeyRecord] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def rewrap(self, record: KeyRecord) -> KeyRecord:
        self.asked.append(record)
        return dataclasses.replace(record, **{"key_arn": NEW_ARN, "wrapped_dek": b"wrapped anew", **self.changes})


@dataclass(frozen=True)
class Packed:
    """A package on disk and what opens it."""

    folder: Path
    manifest: Manifest
    dek: bytes

    @property
    def source(self) -> FolderSource:
        return FolderSource(self.folder)


Run: TypeAlias = Callable[..., Manifest]
MakeManifest: TypeAlias = Callable[..., Manifest]
MakePackage: TypeAlias = Callable[[str], Packed]


@pytest.fixture(scope="session")
def owner_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def owner(owner_key: Ed25519PrivateKey) -> bytes:
    return owner_key.public_key().public_bytes_raw()


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return SPEC


@pytest.fixture
def keys() -> RandomKeys:
    return RandomKeys()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with every file that is packed, two that are not, and weights of two and a half chunks."""
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(stream.CHUNK_SIZE * 5 // 2))
    for name in (
        "config.json",
        "tokenizer.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ):
        (folder / name).write_text(f'{{"file": "{name}"}}')
    (folder / "vocab.txt").write_bytes(b"")
    (folder / "README.md").write_text("not packed")
    (folder / "pytorch_model.bin").write_text("not packed")
    return folder


@pytest.fixture
def make_package(model: Path, tmp_path: Path, owner_key: Ed25519PrivateKey, spec: ModelSpec) -> MakePackage:
    """Packs the model folder under the name given."""

    def make(name: str) -> Packed:
        keys = RandomKeys()
        out = tmp_path / name
        manifest = pack(model, out, owner_key=owner_key, version=1, keys=keys, spec=spec, model_id="test/model")
        return Packed(out, manifest, keys.dek)

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Alone in its folder, so that leftovers show."""
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages" / "out"


@pytest.fixture
def packing(model: Path, out: Path, keys: RandomKeys, owner_key: Ed25519PrivateKey, spec: ModelSpec) -> Run:
    """`pack` with the arguments given instead of the usual ones."""

    def call(**changes: Any) -> Manifest:
        arguments: dict[str, Any] = {
            "folder": model,
            "out": out,
            "owner_key": owner_key,
            "version": 7,
            "keys": keys,
            "spec": spec,
            "model_id": "test/model",
            **changes,
        }
        return pack(arguments.pop("folder"), arguments.pop("out"), **arguments)

    return call


@pytest.fixture
def new_key() -> NewKey:
    return NewKey()


@pytest.fixture
def rewrapping(package: Packed, out: Path, new_key: NewKey, owner_key: Ed25519PrivateKey) -> Run:
    """`rewrap` with the arguments given instead of the usual ones."""

    def call(**changes: Any) -> Manifest:
        usual = {"digest": package.manifest.digest, "owner_key": owner_key, "keys": new_key}
        arguments: dict[str, Any] = {**usual, **changes}
        old, new = rewrap(arguments.pop("source", package.source), arguments.pop("out", out), **arguments)
        assert old.digest == arguments["digest"]
        return new

    return call


@contextmanager
def refusal(out: Path, kind: type[BaseException], code: str | None = None) -> Iterator[None]:
    """Expects the error, and nothing left beside or at `out`."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind) as caught:
        yield
    assert sorted(out.parent.iterdir()) == before
    assert getattr(caught.value, "code", None) == code


@pytest.fixture
def package(make_package: MakePackage) -> Packed:
    return make_package("package")


@pytest.fixture(scope="session")
def make_manifest(owner: bytes, spec: ModelSpec) -> MakeManifest:
    """A valid manifest, with the fields given instead of its own."""

    def make(**changes: object) -> Manifest:
        package_id = bytes(range(16))
        weights = Artifact(
            name="model.safetensors",
            size=5000,
            ciphertext_size=stream.ciphertext_size(5000, 4096),
            sha256=bytes(32),
            salt=bytes(32),
            chunk_size=4096,
        )
        key = KeyRecord(
            provider="aws-kms",
            key_arn=KEY_ARN,
            encryption_context=encryption_context(package_id, "test/model"),
            wrapped_dek=b"wrapped",
        )
        fields: dict[str, object] = {
            "package_id": package_id,
            "model_id": "test/model",
            "version": 3,
            "spec": spec,
            "created_at": 1_790_000_000,
            "license": "Apache-2.0",
            "owner": owner,
            "artifacts": (weights,),
            "key": key,
        }
        return Manifest(**{**fields, **changes})  # type: ignore[arg-type]

    return make
