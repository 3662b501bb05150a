"""Evidence: attestation documents and the policy that turns them into a verdict."""

from __future__ import annotations

from ephemeralml.attestation.binding import KeyReleaseBinding, SessionBinding
from ephemeralml.attestation.chain import AWS_NITRO_ROOT_G1_SHA256, is_nitro_root
from ephemeralml.attestation.document import AttestationDocument
from ephemeralml.attestation.policy import Measurements, Policy
from ephemeralml.attestation.verdict import Step, Verdict
from ephemeralml.attestation.verify import bind_session, verify_document

__all__ = [
    "AWS_NITRO_ROOT_G1_SHA256",
    "AttestationDocument",
    "KeyReleaseBinding",
    "Measurements",
    "Policy",
    "SessionBinding",
    "Step",
    "Verdict",
    "bind_session",
    "is_nitro_root",
    "verify_document",
]
