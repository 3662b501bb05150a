"""An attested enclave's half of the handshake, with every part of what it shows free to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from samples import OWNER, PCRS, RECEIPT_KEY, make_manifest

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.package import Manifest
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.hpke import HpkeKey


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
