"""EphemeralML: confidential embeddings inside an attested enclave, each answer with a signed receipt."""

from __future__ import annotations

from ephemeralml.attestation import AttestationDocument, Measurements, Policy, Verdict, verify_document
from ephemeralml.client import Client, EmbedResult
from ephemeralml.errors import (
    AttestationError,
    BusyError,
    CodecError,
    ConfigurationError,
    EphemeralMLError,
    KeyReleaseError,
    ModelError,
    PackageError,
    PolicyError,
    ReceiptError,
    RequestError,
    SessionError,
    TransportError,
    UnsupportedModelError,
)
from ephemeralml.receipts import Bundle, BundleVerdict, Receipt, ReceiptPolicy, verify_bundle, verify_receipt

__all__ = [
    "AttestationDocument",
    "AttestationError",
    "Bundle",
    "BundleVerdict",
    "BusyError",
    "Client",
    "CodecError",
    "ConfigurationError",
    "EmbedResult",
    "EphemeralMLError",
    "KeyReleaseError",
    "Measurements",
    "ModelError",
    "PackageError",
    "Policy",
    "PolicyError",
    "Receipt",
    "ReceiptError",
    "ReceiptPolicy",
    "RequestError",
    "SessionError",
    "TransportError",
    "UnsupportedModelError",
    "Verdict",
    "verify_bundle",
    "verify_document",
    "verify_receipt",
]
