"""Evidence in, verdict out: every step in order, the first failure raised with the table up to it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NoReturn

from cryptography import x509

from ephemeralml.attestation.binding import SessionBinding
from ephemeralml.attestation.chain import verify_chain, verify_signature
from ephemeralml.attestation.document import AttestationDocument
from ephemeralml.attestation.policy import Measurements, Policy
from ephemeralml.attestation.verdict import Verdict
from ephemeralml.errors import AttestationError

MAX_CLOCK_SKEW: Final = timedelta(minutes=5)
RECEIPT_KEY_BYTES: Final = 32


def _refuse(step: str, code: str, message: str) -> NoReturn:
    raise AttestationError(message, step=step, code=f"{step.replace(' ', '_')}.{code}")


def verify_document(raw: bytes, *, policy: Policy, at: datetime, nonce: bytes | None = None) -> Verdict:
    """Verify an attestation document at the time `at`: now for a live peer, its own timestamp for archived evidence.

    `nonce`, where given, must be the document's. Raises `AttestationError` for every refusal, whatever the bytes, its
    `.verdict` showing the step that failed; ValueError when `at` has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError("at must carry a time zone")
    verdict = Verdict(insecure=policy.insecure)
    try:
        document = AttestationDocument.parse(raw)
        verdict = replace(verdict, parsed=document).passed(
            "parse", f"{document.module_id}, {len(document.pcrs)} PCRs, {len(raw)} bytes"
        )
        leaf = verify_signature(document)
        verdict = verdict.passed("signature", "ES384 over the raw payload")
        platform = verify_chain(document, leaf, extra_roots=policy.extra_roots, at=at)
        root = "the AWS Nitro root G1" if platform == "nitro" else "a root named by the policy"
        verdict = replace(verdict, platform=platform).passed("chain", f"to {root}, valid at {at:%Y-%m-%d %H:%M:%S %Z}")
        verdict = verdict.passed("freshness", _check_freshness(document, leaf, at, nonce))
        return verdict.passed("measurements", _check_measurements(document, policy))
    except AttestationError as error:
        error.verdict = verdict.failed(error.step, str(error))
        raise


def _check_freshness(document: AttestationDocument, leaf: x509.Certificate, at: datetime, nonce: bytes | None) -> str:
    # A timestamp in the wrong unit, or one the signer could not have written, is far outside these three hours.
    if not leaf.not_valid_before_utc <= document.timestamp <= leaf.not_valid_after_utc:
        _refuse("freshness", "timestamp", "the document's timestamp is outside its certificate's validity")
    if document.timestamp - at > MAX_CLOCK_SKEW:
        _refuse("freshness", "future", "the document's timestamp lies in the future: check the clocks")
    made = f"made {document.timestamp:%Y-%m-%d %H:%M:%S} UTC"
    if nonce is None:
        return f"{made}, no nonce asked for"
    if document.nonce is None or not hmac.compare_digest(document.nonce, nonce):
        _refuse(
            "freshness", "nonce", "the document does not answer this nonce: it was made for someone else, or replayed"
        )
    return f"{made}, for this nonce"


def _check_measurements(document: AttestationDocument, policy: Policy) -> str:
    if policy.insecure:
        return "NOT CHECKED: the policy accepts any measurement"
    if document.debug:
        _refuse("measurements", "debug", "the enclave runs in debug mode (PCR0 is zero): its host can read everything")
    differing = [_differing(document, allowed) for allowed in policy.measurements]
    for allowed, registers in zip(policy.measurements, differing, strict=True):
        if not registers:
            return f"{_names(allowed.registers)} equal an allowed set"
    closest = min(differing, key=len)
    _refuse("measurements", "mismatch", f"no allowed set has these registers; the closest differs in {_names(closest)}")


def _differing(document: AttestationDocument, allowed: Measurements) -> list[int]:
    return [
        index
        for index, expected in allowed.registers.items()
        if not hmac.compare_digest(document.pcrs.get(index, b""), expected)
    ]


def _names(registers: Iterable[int]) -> str:
    return ", ".join(f"PCR{index}" for index in registers)


def bind_session(
    verdict: Verdict,
    *,
    policy: Policy,
    hpke_public_key: bytes | None,
    model_id: str,
    model_digest: bytes,
    model_version: int,
) -> Verdict:
    """Check that verified evidence is for this session and model; adds the steps ``key binding`` and ``model``.

    The document must carry a raw Ed25519 receipt key (32 bytes) as public_key and a `SessionBinding` as user_data.
    `hpke_public_key` is the key the peer offered, None for archived evidence. `model_id`, `model_digest` (32 bytes) and
    `model_version` come from the signed manifest. Raises `AttestationError` with the longer `.verdict`.
    """
    try:
        binding = _check_key(verdict, hpke_public_key)
        bound = "receipt key" if hpke_public_key is None else "receipt key and the session's HPKE key"
        verdict = verdict.passed("key binding", f"attested: the {bound}")
        _check_model(binding, policy, model_id, model_digest, model_version)
        return verdict.passed("model", f"{model_id}, {model_digest.hex()[:16]}…, version {model_version}")
    except AttestationError as error:
        error.verdict = verdict.failed(error.step, str(error))
        raise


def _check_key(verdict: Verdict, hpke_public_key: bytes | None) -> SessionBinding:
    if not verdict.ok:
        _refuse("key binding", "unverified", "evidence that was refused binds nothing")
    document = verdict.document
    if document.nitrotpm:
        _refuse("key binding", "not_an_enclave", "the document is a NitroTPM instance's: no enclave, no session")
    if document.public_key is None or len(document.public_key) != RECEIPT_KEY_BYTES:
        _refuse("key binding", "receipt_key", "the document carries no Ed25519 receipt key")
    binding = SessionBinding.from_user_data(document.user_data)
    if hpke_public_key is not None:
        offered = hashlib.sha256(hpke_public_key).digest()
        if not hmac.compare_digest(offered, binding.hpke):
            _refuse("key binding", "hpke", "the HPKE key offered is not the attested one: someone sits in between")
    return binding


def _check_model(
    binding: SessionBinding, policy: Policy, model_id: str, model_digest: bytes, model_version: int
) -> None:
    if not hmac.compare_digest(binding.model, model_digest):
        _refuse("model", "digest", "the enclave attests another model than this manifest")
    if policy.models and model_digest not in policy.models:
        _refuse("model", "not_allowed", "the policy does not allow this model")
    if policy.model_id is not None and model_id != policy.model_id:
        _refuse("model", "id", f"the policy wants the model {policy.model_id!r}, this enclave runs {model_id!r}")
    if policy.minimum_model_version is not None and model_version < policy.minimum_model_version:
        _refuse(
            "model", "version", f"version {model_version} is older than the policy's {policy.minimum_model_version}"
        )
