"""Bundles under a development root, whole or with any part changed and signed again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from samples import OWNER, PCRS, make_manifest
from samples import RECEIPT_KEY as KEY

from ephemeralml.attestation import AttestationDocument, Measurements, Policy, SessionBinding
from ephemeralml.codec import cbor, cose
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.package import Manifest
from ephemeralml.receipts import Bundle, Claims, EnclaveMeasurements, issue_receipt

MADE = datetime.now(UTC)


def make_claims() -> Claims:
    """Good claims with every optional one present."""
    return Claims(
        iss="enclave.example",
        iat=1_760_000_000,
        cti=bytes(range(16)),
        eat_nonce=b"n" * 32,
        model_id="all-MiniLM-L6-v2",
        model_version="3",
        model_hash=b"\x11" * 32,
        request_hash=b"\x22" * 32,
        response_hash=b"\x33" * 32,
        attestation_doc_hash=b"\x44" * 32,
        enclave_measurements=EnclaveMeasurements(
            measurement_type="nitro-pcr",
            **{f"pcr{index}": PCRS[index] for index in (0, 1, 2, 3, 4, 8)},
        ),
        policy_version="1",
        sequence_number=5,
        execution_time_ms=12,
        memory_peak_mb=310,
        security_mode="evaluation",
        model_hash_scheme="sha256-manifest",
    )


def seal(
    payload: bytes | Mapping[Any, Any],
    *,
    protected: bytes = bytes.fromhex("a2012703183d"),
    unprotected: object = None,
) -> bytes:
    """A correctly signed COSE_Sign1 around any payload, map or bytes, and any headers."""
    body = payload if isinstance(payload, bytes) else cbor.encode(dict(payload))
    signature = KEY.sign(cose.Sign1(protected, {}, body, b"").to_be_signed())
    return b"\xd2" + cbor.encode([protected, unprotected or {}, body, signature])


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """One enclave under a development root, its model, and a policy that pins both."""

    root: DevelopmentRoot
    manifest: Manifest
    document: bytes
    claims: Claims
    policy: Policy

    def attest(self, *, pcrs: Mapping[int, bytes] = PCRS, made: datetime = MADE, **changes: Any) -> bytes:
        """A document by another security module under the same root; `model` or the NSM's own fields may change."""
        binding = SessionBinding(
            hpke=b"h" * 32, model=changes.pop("model", self.manifest.digest), config=b"c" * 32, boot=b"b" * 16
        )
        fields = {
            "public_key": KEY.public_key().public_bytes_raw(),
            "user_data": binding.to_user_data(),
            "nonce": b"n" * 32,
            **changes,
        }
        nsm = SoftwareNsm(self.root, pcrs, clock=lambda: made)
        answer: Any = cbor.decode(nsm.handle(cbor.encode({"Attestation": fields})))
        document: bytes = answer["Attestation"]["document"]
        return document

    def bundle(
        self,
        *,
        document: bytes | None = None,
        manifest: Manifest | None = None,
        receipt: bytes | None = None,
        key: Ed25519PrivateKey = KEY,
        **claims: Any,
    ) -> bytes:
        """A bundle whose receipt was issued by `key` for this document, with `claims` changed."""
        document = document or self.document
        manifest = manifest or self.manifest
        issued = dataclasses.replace(
            self.claims, **{"attestation_doc_hash": hashlib.sha256(document).digest(), **claims}
        )
        receipt = receipt or issue_receipt(issued, key)
        return Bundle(receipt=receipt, document=document, manifest=manifest.sign(OWNER)).to_bytes()


def make_world() -> World:
    """A new root, a document under it, and claims that fit it."""
    manifest, claims = make_manifest(), make_claims()
    root = DevelopmentRoot.create()
    policy = Policy(
        measurements=[Measurements(pcr0=PCRS[0], pcr1=PCRS[1], pcr2=PCRS[2])],
        models=[manifest.digest],
        extra_roots=[root.der],
    )
    bare = World(root=root, manifest=manifest, document=b"", claims=claims, policy=policy)
    document = bare.attest()
    made = AttestationDocument.parse(document).timestamp
    issued = dataclasses.replace(claims, iat=int(made.timestamp()) + 60, model_hash=manifest.digest)
    return dataclasses.replace(bare, document=document, claims=issued)
