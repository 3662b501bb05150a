"""An attested enclave's half of the handshake, with every part of what it shows free to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.package.manifest import Artifact, KeyRecord, Manifest, encryption_context
from ephemeralml.package.model import ModelSpec
from ephemeralml.package.stream import ciphertext_size
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.hpke import HpkeKey

OWNER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
RECEIPT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PCRS = {index: bytes([index + 1]) * 48 for index in range(16)}


def make_manifest(*, version: int = 3) -> Manifest:
    artifact = Artifact(
        name="model.safetensors",
        size=1000,
        ciphertext_size=ciphertext_size(1000, 1 << 20),
        sha256=b"s" * 32,
        salt=b"t" * 32,
        chunk_size=1 << 20,
    )
    return Manifest(
        package_id=b"p" * 16,
        model_id="tiny",
        version=version,
        spec=ModelSpec(
            architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=256, dimension=384
        ),
        created_at=1_750_000_000,
        license="Apache-2.0",
        owner=OWNER.public_key().public_bytes_raw(),
        artifacts=(artifact,),
        key=KeyRecord(
            provider="aws-kms",
            key_arn="arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000",
            encryption_context=encryption_context(b"p" * 16, "tiny"),
            wrapped_dek=b"w" * 64,
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enclave:
    """What an enclave is to a client: a security module, a model, an HPKE key."""

    root: DevelopmentRoot
    key: HpkeKey
    nsm: SoftwareNsm
    manifest: Manifest

    @property
    def policy(self) -> Policy:
        measurements = Measurements(pcr0=PCRS[0], pcr1=PCRS[1], pcr2=PCRS[2])
        return Policy(measurements=[measurements], models=[self.manifest.digest], extra_roots=[self.root.der])

    def attest(self, user_data: bytes, nonce: bytes, **changes: Any) -> bytes:
        fields: Mapping[str, Any] = {
            "user_data": user_data,
            "nonce": nonce,
            "public_key": RECEIPT_KEY.public_key().public_bytes_raw(),
            **changes,
        }
        answer: Any = cbor.decode(self.nsm.handle(cbor.encode({"Attestation": fields})))
        document: bytes = answer["Attestation"]["document"]
        return document

    def handshake(self, **changes: Any) -> EnclaveHandshake:
        parts: dict[str, Any] = {
            "key": self.key,
            "model": self.manifest.digest,
            "config": b"c" * 32,
            "boot": b"b" * 16,
            "manifest": self.manifest.sign(OWNER),
        }
        return EnclaveHandshake(**{**parts, **changes})


@pytest.fixture(scope="session")
def enclave() -> Enclave:
    root = DevelopmentRoot.create()
    return Enclave(root=root, key=HpkeKey(), nsm=SoftwareNsm(root, PCRS), manifest=make_manifest())


@pytest.fixture
def at() -> datetime:
    return datetime.now(UTC)
