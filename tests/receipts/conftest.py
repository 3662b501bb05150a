"""Receipts, bundles and everything in them, whole or with any part changed and signed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import bundles
import pytest
from bundles import World, make_claims, make_world
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from samples import RECEIPT_KEY as KEY
from samples import make_manifest

from ephemeralml.codec import cbor
from ephemeralml.package import Manifest
from ephemeralml.receipts import Claims


@pytest.fixture(scope="session")
def air_vectors(vectors: Path) -> Callable[[str], dict[str, Any]]:
    """`air_vectors("valid")`: the receipts nobody of this project made, by name."""

    def load(kind: str) -> dict[str, Any]:
        paths = sorted((vectors / "air-v1" / kind).glob("*.json"))
        return {path.stem: json.loads(path.read_text()) for path in paths}

    return load


@pytest.fixture(scope="session")
def key() -> Ed25519PrivateKey:
    return KEY


@pytest.fixture(scope="session")
def public_key() -> bytes:
    return KEY.public_key().public_bytes_raw()


@pytest.fixture(scope="session")
def claims() -> Claims:
    """Good claims with every optional one present."""
    return make_claims()


@pytest.fixture(scope="session")
def payload(claims: Claims) -> Mapping[int, Any]:
    """The good claims as the map that is signed; copy it before changing it."""
    value: Any = cbor.decode(claims.to_payload())
    return MappingProxyType(value)


@pytest.fixture(scope="session")
def seal() -> Callable[..., bytes]:
    """`seal(payload, …)`: a correctly signed COSE_Sign1 around any payload, map or bytes, and any headers."""
    return bundles.seal


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return make_manifest()


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()
