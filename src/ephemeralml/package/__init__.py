"""The encrypted model package: signed manifest, chunked encryption, packing, opening and rewrapping."""

from __future__ import annotations

from ephemeralml.package.keys import DataKey, KeyProvider, generate_owner_key, load_owner_key
from ephemeralml.package.manifest import Artifact, KeyRecord, Manifest, encryption_context
from ephemeralml.package.model import ModelSpec, read_model_spec
from ephemeralml.package.open import decrypt_artifact, open_package
from ephemeralml.package.pack import pack
from ephemeralml.package.rewrap import KeyRewrapper, rewrap
from ephemeralml.package.source import ArtifactSource, FolderSource, Reader

__all__ = [
    "Artifact",
    "ArtifactSource",
    "DataKey",
    "FolderSource",
    "KeyProvider",
    "KeyRecord",
    "KeyRewrapper",
    "Manifest",
    "ModelSpec",
    "Reader",
    "decrypt_artifact",
    "encryption_context",
    "generate_owner_key",
    "load_owner_key",
    "open_package",
    "pack",
    "read_model_spec",
    "rewrap",
]
