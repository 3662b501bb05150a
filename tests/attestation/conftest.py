"""Documents under a development root, whole or with any part changed and signed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.codec import cbor, cose
from ephemeralml.devcloud.root import Chain, DevelopmentRoot

REGISTERS = {index: bytes([index + 1]) * 48 for index in range(16)}


@pytest.fixture(scope="session")
def root() -> DevelopmentRoot:
    return DevelopmentRoot.create()


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def chain(root: DevelopmentRoot, now: datetime) -> Chain:
    return root.issue_chain(module_id="i-0-enc0", now=now)


@pytest.fixture(scope="session")
def fields(chain: Chain, now: datetime) -> Mapping[str, Any]:
    """The payload of a good document."""
    return MappingProxyType(
        {
            "module_id": "i-0-enc0",
            "digest": "SHA384",
            "timestamp": (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1),
            "pcrs": dict(REGISTERS),
            "certificate": chain.certificate,
            "cabundle": list(chain.cabundle),
            "public_key": b"k" * 32,
            "user_data": None,
            "nonce": b"n" * 32,
        }
    )


@pytest.fixture(scope="session")
def forge(fields: Mapping[str, Any], chain: Chain) -> Callable[..., bytes]:
    """`forge(field=value, …)`: a document with these fields changed, signed again by the leaf or by `_key`."""

    def make(
        *,
        _payload: bytes | None = None,
        _key: ec.EllipticCurvePrivateKey | None = None,
        _protected: dict[int, int] | None = None,
        _drop: str | None = None,
        **changes: object,
    ) -> bytes:
        payload = {name: value for name, value in {**fields, **changes}.items() if name != _drop}
        return cose.sign(
            cbor.encode(payload) if _payload is None else _payload,
            _key or chain.key,
            protected={cose.ALG: cose.ES384} if _protected is None else _protected,
            tagged=False,
        )

    return make


@pytest.fixture(scope="session")
def measurements() -> Measurements:
    return Measurements(pcr0=REGISTERS[0], pcr1=REGISTERS[1], pcr2=REGISTERS[2])


@pytest.fixture(scope="session")
def policy(root: DevelopmentRoot, measurements: Measurements) -> Policy:
    return Policy(measurements=[measurements], extra_roots=[root.der])
