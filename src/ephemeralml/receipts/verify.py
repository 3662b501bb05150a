"""Bundle in, verdict out: evidence, model and receipt, each checked on its own and then against the others."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn, cast

from cryptography.hazmat.primitives.constant_time import bytes_eq

from ephemeralml.attestation import AttestationDocument, Policy, Step, Verdict, bind_session, verify_document
from ephemeralml.attestation.verdict import Platform
from ephemeralml.errors import AttestationError, PackageError, ReceiptError
from ephemeralml.package.manifest import Manifest
from ephemeralml.receipts.bundle import Bundle
from ephemeralml.receipts.claims import EVALUATION, NITRO_PCR, PRODUCTION, SHA256_MANIFEST, Claims
from ephemeralml.receipts.policy import CLOCK_SKEW_SECS
from ephemeralml.receipts.receipt import Receipt, verify_receipt
from ephemeralml.receipts.version import ran_precision

MAX_SESSION: Final = timedelta(hours=3)
"""The longest a session may go on under one document: its leaf certificate lives no longer."""

_SKEW = timedelta(seconds=CLOCK_SKEW_SECS)
_LAYERS: Final = {1: "receipt parse", 2: "receipt signature", 3: "receipt claims", 5: "receipt evidence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleVerdict:
    """A bundle in which everything held. `evidence` has every step taken, from ``bundle`` to ``receipt evidence``."""

    evidence: Verdict
    manifest: Manifest
    receipt: Receipt

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps taken, in order."""
        return self.evidence.steps

    @property
    def ok(self) -> bool:
        """Whether every step passed."""
        return self.evidence.ok

    @property
    def document(self) -> AttestationDocument:
        """The document that vouches for the receipt's key."""
        return self.evidence.document

    @property
    def platform(self) -> Platform:
        """``nitro`` under the AWS root, ``local`` under a development root."""
        return self.evidence.platform

    @property
    def insecure(self) -> bool:
        """Whether the policy accepted any measurement."""
        return self.evidence.insecure

    @property
    def confidential(self) -> bool:
        """Whether a pinned, non-debug enclave on AWS hardware answered."""
        return self.evidence.confidential

    def __str__(self) -> str:
        """The table of steps, ending in the platform and, where it applies, why it is not confidential."""
        return str(self.evidence)


def verify_bundle(
    path_or_bytes: bytes | str | os.PathLike[str], *, policy: Policy, at: datetime | None = None
) -> BundleVerdict:
    """Verify a bundle offline, at the time `at` (aware) or, when None, at its attestation document's own time.

    The first failure is raised: `ReceiptError` for the bundle (layer 1, ``BUNDLE_…``), the receipt (layers 1 to 3) and
    what ties it to the rest (layer 5); `AttestationError` for the document; `PackageError` for the manifest. Each
    carries the table so far as ``.verdict``. Whose model it is rests on `policy.models`: the manifest's own
    signature shows integrity only. Raises ValueError when `at` has no time zone.
    """
    verdict = Verdict(insecure=policy.insecure)
    try:
        bundle = Bundle.from_bytes(path_or_bytes) if isinstance(path_or_bytes, bytes) else Bundle.load(path_or_bytes)
    except ReceiptError as error:
        error.verdict = verdict.failed("bundle", str(error))
        raise
    sizes = f"{len(bundle.receipt)} + {len(bundle.document)} + {len(bundle.manifest)} bytes"
    verdict = verdict.passed("bundle", f"receipt, document and manifest, {sizes}")
    verdict = _verify_evidence(verdict, bundle.document, policy, at)
    try:
        manifest = Manifest.verify(bundle.manifest, owner=None)
    except PackageError as error:
        error.verdict = verdict.failed("manifest", str(error))
        raise
    verdict = verdict.passed("manifest", f"{manifest.model_id}, signed by {manifest.owner.hex()[:16]}…")
    verdict = bind_session(
        verdict,
        policy=policy,
        hpke_public_key=None,
        model_id=manifest.model_id,
        model_digest=manifest.digest,
        model_version=manifest.version,
    )
    return _verify_receipt(verdict, bundle.receipt, manifest)


def _verify_evidence(verdict: Verdict, document: bytes, policy: Policy, at: datetime | None) -> Verdict:
    try:
        evidence = verify_document(document, policy=policy, at=at or _own_time(document))
    except AttestationError as error:
        table = cast("Verdict", error.verdict)
        error.verdict = replace(table, steps=(*verdict.steps, *table.steps))
        raise
    return replace(evidence, steps=(*verdict.steps, *evidence.steps))


def _own_time(document: bytes) -> datetime:
    try:
        return AttestationDocument.parse(document).timestamp
    except AttestationError:
        # Bytes without a time of their own are refused at any, with a table, by `verify_document`.
        return datetime.now(UTC)


def _verify_receipt(verdict: Verdict, raw: bytes, manifest: Manifest) -> BundleVerdict:
    details = {
        1: f"AIR v1, {len(raw)} bytes",
        2: "Ed25519, by the key the document attests",
        3: "complete and well-formed",
    }
    try:
        receipt = verify_receipt(raw, public_key=verdict.document.public_key or b"")
        check_evidence(receipt.claims, verdict, manifest)
    except ReceiptError as error:
        for layer, detail in details.items():
            if layer < error.layer:
                verdict = verdict.passed(_LAYERS[layer], detail)
        error.verdict = verdict.failed(_LAYERS[error.layer], str(error))
        raise
    issued = datetime.fromtimestamp(receipt.claims.iat, UTC)
    details[5] = (
        f"this document, model and session, computed in {ran_precision(receipt.claims, manifest)}, "
        f"{receipt.claims.security_mode}, issued {issued:%Y-%m-%d %H:%M:%S} UTC"
    )
    for layer, detail in details.items():
        verdict = verdict.passed(_LAYERS[layer], detail)
    return BundleVerdict(evidence=verdict, manifest=manifest, receipt=receipt)


def check_evidence(claims: Claims, verdict: Verdict, manifest: Manifest) -> None:
    """Layer 5: the receipt speaks of this very document, enclave, model and session. Raises `ReceiptError`."""
    document = verdict.document
    if not bytes_eq(claims.attestation_doc_hash, document.sha256):
        _refuse("ATTESTATION_DOC_HASH_MISMATCH", "it was issued under another attestation document")
    _check_measurements(claims, document)
    _check_model(claims, manifest)
    if claims.eat_nonce is None:
        _refuse("NONCE_MISSING", "it carries no eat_nonce, so it answers no particular request")
    if claims.security_mode != _security_mode(verdict):
        _refuse("SECURITY_MODE_MISMATCH", f"security_mode must be {_security_mode(verdict)} on this platform")
    if claims.iat < (document.timestamp - _SKEW).timestamp():
        _refuse("TIMESTAMP_BEFORE_EVIDENCE", "it was issued before the attestation document was made")
    if claims.iat > (document.timestamp + MAX_SESSION + _SKEW).timestamp():
        _refuse("TIMESTAMP_AFTER_SESSION", "it was issued after any session under this document had to end")


def _check_measurements(claims: Claims, document: AttestationDocument) -> None:
    measured = claims.enclave_measurements
    if measured.measurement_type != NITRO_PCR:
        _refuse("PLATFORM_MISMATCH", f"its measurement_type is not {NITRO_PCR}, the document's")
    for name, value in measured.registers.items():
        if not bytes_eq(value, document.pcrs.get(int(name.removeprefix("pcr")), b"")):
            _refuse("MEASUREMENTS_MISMATCH", f"its {name} is not the document's")


def _check_model(claims: Claims, manifest: Manifest) -> None:
    if claims.model_hash_scheme != SHA256_MANIFEST:
        _refuse("MODEL_HASH_SCHEME_MISMATCH", f"model_hash_scheme must be {SHA256_MANIFEST}")
    if not bytes_eq(claims.model_hash, manifest.digest):
        _refuse("MODEL_HASH_MISMATCH", "model_hash is not the manifest's digest")
    if claims.model_id != manifest.model_id:
        _refuse("MODEL_ID_MISMATCH", "model_id is not the manifest's")
    if ran_precision(claims, manifest) is None:
        _refuse("MODEL_VERSION_MISMATCH", "model_version is not the manifest's version and a precision it allows")


def _security_mode(verdict: Verdict) -> str:
    return PRODUCTION if verdict.platform == "nitro" and not verdict.document.debug else EVALUATION


def _refuse(code: str, message: str) -> NoReturn:
    raise ReceiptError(f"receipt: {message}", layer=5, code=code)
