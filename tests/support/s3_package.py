"""A package as the S3 suites have it, and who may read or write there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ephemeralml.devcloud.sigv4 import Credential
from ephemeralml.package import DataKey, Manifest, ModelSpec

OWNER = Credential("AKIDOWNER", "owner-secret", "arn:aws:iam::000000000000:user/owner")
HOST = Credential("AKIDHOST", "host-secret", "arn:aws:iam::000000000000:role/host")
BUCKET = "models"
URL = f"s3://{BUCKET}/minilm"
DEK = bytes(range(32))
SPEC = ModelSpec(architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=256, dimension=384)
WEIGHTS = "model.safetensors"


class Keys:
    def generate_data_key(self, _: Mapping[str, str]) -> DataKey:
        arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
        return DataKey(plaintext=DEK, wrapped=b"wrapped", key_arn=arn, provider="aws-kms")


@dataclass(frozen=True)
class Packed:
    folder: Path
    manifest: Manifest

    @property
    def signed(self) -> bytes:
        return (self.folder / "manifest.cose").read_bytes()

    @property
    def sealed(self) -> bytes:
        """The encrypted weights."""
        return (self.folder / f"{WEIGHTS}.enc").read_bytes()

    def key(self, name: str = WEIGHTS) -> str:
        return f"minilm/{self.manifest.package_id.hex()}/{name}.enc"


MakePackage: TypeAlias = Callable[..., Packed]
AsPrincipal: TypeAlias = Callable[[Credential], None]
