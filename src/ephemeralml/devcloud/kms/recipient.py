"""The Recipient parameter: an attestation document, verified, becomes a public key and condition values.

Like the real KMS this checks the document's structure, signature and certificate chain now, and nothing else: not a
nonce, not user_data, not its age. What the enclave is measured to be is the key policy's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ephemeralml.attestation import AttestationDocument, Policy, verify_document
from ephemeralml.devcloud.kms import fields
from ephemeralml.devcloud.kms.api_error import VALIDATION, ApiError
from ephemeralml.devcloud.kms.conditions import RECIPIENT_ATTESTATION, Context
from ephemeralml.errors import AttestationError

MAX_DOCUMENT_BYTES: Final = 65536

_RSA_BITS: Final = range(2048, 4097)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A verified enclave: the key to encrypt to, and the condition values its document brings (empty in debug mode)."""

    public_key: RSAPublicKey
    context: Context


def read_recipient(body: fields.Body, *, policy: Policy, at: datetime) -> Recipient | None:
    """The request's Recipient, None when it has none. Raises `ApiError` ValidationException for a bad document."""
    value = body.get("Recipient")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ApiError("SerializationException", "Recipient must be an object.")
    if fields.text(value, "KeyEncryptionAlgorithm") != "RSAES_OAEP_SHA_256":
        raise ApiError(VALIDATION, "KeyEncryptionAlgorithm must be RSAES_OAEP_SHA_256.")
    raw = fields.blob(value, "AttestationDocument", limit=MAX_DOCUMENT_BYTES)
    try:
        document = verify_document(raw, policy=policy, at=at).document
    except AttestationError as error:
        raise ApiError(VALIDATION, f"The attestation document is not valid ({error.step}: {error.code}).") from error
    return Recipient(_public_key(document), condition_values(document))


def _public_key(document: AttestationDocument) -> RSAPublicKey:
    try:
        key = load_der_public_key(document.public_key or b"")
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey) or key.key_size not in _RSA_BITS:
        raise ApiError(VALIDATION, "The attestation document must carry an RSA public key of 2048 to 4096 bits.")
    return key


def condition_values(document: AttestationDocument) -> Context:
    """The registers as key policies name them; none for a debug enclave, nor for a NitroTPM instance."""
    # Debug registers are zero, which must not match even a policy that lists zeros; AWS has other keys for a NitroTPM.
    if document.debug or document.nitrotpm:
        return {}
    values = {f"{RECIPIENT_ATTESTATION}pcr{index}": (pcr.hex(),) for index, pcr in document.pcrs.items()}
    if 0 in document.pcrs:
        values[f"{RECIPIENT_ATTESTATION}imagesha384"] = (document.pcrs[0].hex(),)
    return values
