"""EphemeralML: confidential embeddings inside an attested enclave, each answer with a signed receipt."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

# Loaded when asked for: importing a part of this package inside the enclave must not load the client.
_HOME = {
    "attestation": (
        "AttestationDocument",
        "Measurements",
        "Policy",
        "Verdict",
        "verify_document",
    ),
    "client": (
        "Client",
        "EmbedResult",
    ),
    "errors": (
        "AttestationError",
        "BusyError",
        "CodecError",
        "ConfigurationError",
        "EphemeralMLError",
        "KeyReleaseError",
        "ModelError",
        "PackageError",
        "PolicyError",
        "ReceiptError",
        "RequestError",
        "SessionError",
        "TransportError",
        "UnsupportedModelError",
    ),
    "receipts": (
        "Bundle",
        "BundleVerdict",
        "Receipt",
        "ReceiptPolicy",
        "verify_bundle",
        "verify_receipt",
    ),
}
_MODULES = {name: module for module, exported in _HOME.items() for name in exported}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ephemeralml' has no attribute {name!r}")
    return getattr(import_module(f"ephemeralml.{_MODULES[name]}"), name)


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
