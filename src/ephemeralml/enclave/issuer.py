"""Receipts, as this boot of this enclave issues them."""

from __future__ import annotations

import os
import resource
from hashlib import sha256

from ephemeralml.enclave.boot import Booted
from ephemeralml.receipts import Claims, EnclaveMeasurements, issue_receipt
from ephemeralml.receipts.claims import EVALUATION, PRODUCTION
from ephemeralml.receipts.version import receipt_version

_MEASURED = (0, 1, 2, 3, 4, 8)


class Issuer:
    """Signs one receipt per answer, with what holds for all of them read once."""

    def __init__(self, booted: Booted) -> None:
        self._booted = booted
        pcrs = {f"pcr{index}": booted.module.pcr(index) for index in _MEASURED}
        self._measurements = EnclaveMeasurements(
            measurement_type="nitro-pcr",
            pcr0=pcrs["pcr0"],
            pcr1=pcrs["pcr1"],
            pcr2=pcrs["pcr2"],
            pcr3=pcrs["pcr3"],
            pcr4=pcrs["pcr4"],
            pcr8=pcrs["pcr8"],
        )
        self._security_mode = PRODUCTION if booted.production else EVALUATION
        self._policy_version = f"sha256:{booted.configuration.digest.hex()}"
        self._model_digest = booted.manifest.digest
        self._model_version = receipt_version(booted.manifest, booted.encoder.precision)

    def issue(
        self,
        *,
        document: bytes,
        request: bytes,
        response: bytes,
        nonce: bytes,
        sequence_number: int,
        execution_ms: float,
    ) -> bytes:
        """The receipt for `response` to `request` (their bodies), under the session's attestation document.

        Raises `PlatformError` while the enclave's clock cannot be trusted.
        """
        manifest = self._booted.manifest
        claims = Claims(
            iss=self._booted.configuration.issuer,
            iat=int(self._booted.module.clock.now()),
            cti=os.urandom(16),
            eat_nonce=nonce,
            model_id=manifest.model_id,
            model_version=self._model_version,
            model_hash=self._model_digest,
            request_hash=sha256(request).digest(),
            response_hash=sha256(response).digest(),
            attestation_doc_hash=sha256(document).digest(),
            enclave_measurements=self._measurements,
            policy_version=self._policy_version,
            sequence_number=sequence_number,
            execution_time_ms=round(execution_ms),
            # Linux counts ru_maxrss in KiB (getrusage(2)).
            memory_peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            security_mode=self._security_mode,
            model_hash_scheme="sha256-manifest",
        )
        return issue_receipt(claims, self._booted.receipt_key)
