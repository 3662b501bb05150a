"""Documents signed by AWS, and broken ones, that nobody of this project made."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation import (
    AWS_NITRO_ROOT_G1_SHA256,
    AttestationDocument,
    Measurements,
    Policy,
    verify_document,
)
from ephemeralml.errors import AttestationError

ANY = Policy.insecure_any_measurement()
STAGES = {
    "t_timestamp_seconds.bin": "freshness.timestamp",
    "t_nonce_text.bin": "parse.nonce",
    "t_leaf_not_yet_valid.bin": "chain.not_yet_valid",
    "t_leaf_is_ca.bin": "chain.leaf_is_ca",
    "t_pathlen_violation.bin": "chain.invalid",
    "t_pcrs_empty.bin": "parse.pcrs",
    "t_duplicate_user_data_key.bin": "parse.payload",
    "t_leaf_p256_es256.bin": "parse.algorithm",
    "own_root_wellformed.bin": "chain.untrusted_root",
    "flip_nonce_bit.bin": "signature.invalid",
    "trailing_byte.bin": "parse.cose",
}


def _cases(folder: Path) -> list[tuple[bytes, dict[str, Any]]]:
    entries = json.loads((folder / "manifest.json").read_text())
    assert entries
    return [((folder / entry["file"]).read_bytes(), entry) for entry in entries]


def _own(document: AttestationDocument) -> Measurements:
    return Measurements(pcr0=document.pcrs[0], pcr1=document.pcrs[1], pcr2=document.pcrs[2])


def test_the_root_certificate_is_the_pinned_one(vectors: Path) -> None:
    genuine = {AttestationDocument.parse(raw).cabundle[0] for raw, _ in _cases(vectors / "nitro-docs")}
    assert genuine == {(vectors / "nitro-docs" / "aws_nitro_root_g1.der").read_bytes()}
    verdict = Policy.insecure_any_measurement(extra_roots=list(genuine))
    raw, entry = _cases(vectors / "nitro-docs")[0]
    assert verify_document(raw, policy=verdict, at=datetime.fromisoformat(entry["timestamp"])).platform == "nitro"
    assert len(AWS_NITRO_ROOT_G1_SHA256) == 32


def test_genuine_documents_verify_at_their_time_and_not_four_hours_later(vectors: Path) -> None:
    for raw, entry in _cases(vectors / "nitro-docs"):
        document = AttestationDocument.parse(raw)
        assert document.pcrs[0].hex() == entry["pcr0"]
        assert len(document.pcrs) == entry["n_pcrs"]
        assert document.nitrotpm == (entry["kind"] == "nitrotpm")
        assert document.debug == entry["debug_mode_pcr0_zero"]
        verdict = verify_document(raw, policy=ANY, at=document.timestamp, nonce=document.nonce)
        assert verdict.ok
        assert verdict.platform == "nitro"
        assert verdict.insecure
        assert not verdict.confidential
        with pytest.raises(AttestationError) as caught:
            verify_document(raw, policy=ANY, at=document.timestamp + timedelta(hours=4))
        assert caught.value.code == "chain.expired"


def test_genuine_documents_verify_under_their_own_registers_only(vectors: Path) -> None:
    documents = [AttestationDocument.parse(raw) for raw, _ in _cases(vectors / "nitro-docs")]
    own = {document.raw: _own(document) for document in documents if not document.debug}
    for document in documents:
        others = [item for item in own.values() if document.debug or item != own[document.raw]]
        with pytest.raises(AttestationError) as caught:
            verify_document(document.raw, policy=Policy(measurements=others), at=document.timestamp)
        assert caught.value.code == ("measurements.debug" if document.debug else "measurements.mismatch")
        if not document.debug:
            policy = Policy(measurements=[*others, own[document.raw]])
            verdict = verify_document(document.raw, policy=policy, at=document.timestamp)
            assert verdict.confidential is not document.nitrotpm


def test_bad_documents_end_as_their_manifest_says(vectors: Path) -> None:
    own_root = (vectors / "nitro-bad" / "test_root.der").read_bytes()
    for raw, entry in _cases(vectors / "nitro-bad"):
        roots = [own_root] if entry["anchor"] == "test_root.der" else []
        at = datetime.fromisoformat(entry["verify_at"])
        policy = Policy.insecure_any_measurement(extra_roots=roots)
        if entry["expected"] == "accept":
            assert verify_document(raw, policy=policy, at=at).ok, entry["file"]
            continue
        with pytest.raises(AttestationError) as caught:
            verify_document(raw, policy=policy, at=at)
        assert caught.value.code == STAGES.get(entry["file"], caught.value.code), entry["file"]


def test_the_wellformed_document_of_another_root_needs_that_root(vectors: Path) -> None:
    folder = vectors / "nitro-bad"
    raw, entry = next(case for case in _cases(folder) if case[1]["file"] == "own_root_wellformed.bin")
    policy = Policy.insecure_any_measurement(extra_roots=[(folder / "test_root.der").read_bytes()])
    verdict = verify_document(raw, policy=policy, at=datetime.fromisoformat(entry["verify_at"]))
    assert verdict.platform == "local"
    assert not verdict.confidential
