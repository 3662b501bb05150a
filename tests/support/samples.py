"""What several suites need one of: an owner, a model's manifest, the registers of an enclave, its report."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.package import Artifact, KeyRecord, Manifest, ModelSpec, encryption_context
from ephemeralml.package.stream import ciphertext_size
from ephemeralml.session.report import BOUNDS_MS, REFUSALS, STAGES, Report

OWNER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
RECEIPT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PCRS = {index: bytes([index + 1]) * 48 for index in range(16)}
IDLE = Report(
    boot=b"a" * 16,
    sessions_open=0,
    in_work=0,
    sessions=0,
    refused=(0,) * len(REFUSALS),
    stages=((0,) * (len(BOUNDS_MS) + 1),) * len(STAGES),
)

_PACKAGE_ID = b"p" * 16


def make_manifest(*, model_id: str = "all-MiniLM-L6-v2", dimension: int = 384) -> Manifest:
    """A manifest of version 3 by `OWNER`, of a package that nobody has."""
    spec = ModelSpec(
        architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=256, dimension=dimension
    )
    artifact = Artifact(
        name="model.safetensors",
        size=1000,
        ciphertext_size=ciphertext_size(1000, 1 << 20),
        sha256=b"s" * 32,
        salt=b"t" * 32,
        chunk_size=1 << 20,
    )
    key = KeyRecord(
        provider="aws-kms",
        key_arn="arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000",
        encryption_context=encryption_context(_PACKAGE_ID, model_id),
        wrapped_dek=b"w" * 64,
    )
    return Manifest(
        package_id=_PACKAGE_ID,
        model_id=model_id,
        version=3,
        spec=spec,
        created_at=1_750_000_000,
        license="Apache-2.0",
        owner=OWNER.public_key().public_bytes_raw(),
        artifacts=(artifact,),
        key=key,
    )
