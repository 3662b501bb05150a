"""The Nitro attestation document: an untagged COSE_Sign1 over a CBOR map, read field by field.

Field rules: AWS, "Nitro Enclaves Attestation Process", section 3.2.2, with the limits of genuine documents (1024 bytes
for user_data and nonce, SHA-384 registers only). Nothing is re-encoded; parsing proves no signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, NoReturn

from ephemeralml.codec import cbor, cose
from ephemeralml.errors import AttestationError, CodecError

MAX_DOCUMENT_BYTES: Final = 32 * 1024
MAX_CERTIFICATE_BYTES: Final = 1024
MAX_CABUNDLE: Final = 8
MAX_FIELD_BYTES: Final = 1024
MAX_MODULE_ID: Final = 256
PCR_BYTES: Final = 48
PCR_COUNT: Final = 32

PROTECTED: Final = cbor.encode({cose.ALG: cose.ES384})
ZERO_PCR: Final = bytes(PCR_BYTES)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TIMESTAMP_MS = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_REQUIRED = frozenset({"module_id", "digest", "timestamp", "certificate", "cabundle"})
_OPTIONAL = frozenset({"public_key", "user_data", "nonce"})


def _refuse(code: str, message: str) -> NoReturn:
    raise AttestationError(f"attestation document: {message}", step="parse", code=f"parse.{code}")


def _module_id(value: object) -> str:
    # Printable ASCII, since it is shown on terminals.
    if not isinstance(value, str) or not 0 < len(value) <= MAX_MODULE_ID:
        _refuse("module_id", f"module_id must be a text of 1 to {MAX_MODULE_ID} characters")
    if not (value.isascii() and value.isprintable()):
        _refuse("module_id", "module_id must be printable ASCII")
    return value


def _timestamp(value: object) -> datetime:
    if type(value) is not int or not 0 < value <= _MAX_TIMESTAMP_MS:
        _refuse("timestamp", "timestamp must be a positive number of milliseconds")
    return _EPOCH + timedelta(milliseconds=value)


def _pcrs(value: object) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= PCR_COUNT:
        _refuse("pcrs", f"pcrs must be a map of 1 to {PCR_COUNT} registers")
    for index, register in value.items():
        if type(index) is not int or not 0 <= index < PCR_COUNT:
            _refuse("pcrs", f"a PCR index must be an integer below {PCR_COUNT}")
        if not isinstance(register, bytes) or len(register) != PCR_BYTES:
            _refuse("pcrs", f"PCR{index} must be {PCR_BYTES} bytes")
    return MappingProxyType(value)


def _certificate(name: str, value: object) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= MAX_CERTIFICATE_BYTES:
        _refuse(name, f"{name} must hold certificates of 1 to {MAX_CERTIFICATE_BYTES} bytes")
    return value


def _cabundle(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CABUNDLE:
        _refuse("cabundle", f"cabundle must be an array of 1 to {MAX_CABUNDLE} certificates")
    return tuple(_certificate("cabundle", item) for item in value)


def _optional(name: str, value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) > MAX_FIELD_BYTES:
        _refuse(name, f"{name} must be null or at most {MAX_FIELD_BYTES} bytes")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationDocument:
    """A well-formed attestation document. Its fields are claims until `verify_document` accepted them.

    `pcrs` maps index to 48 bytes. `certificate` and `cabundle` (root first) are DER. `public_key`, `user_data` and
    `nonce` are None when absent or null; zero-length strings stay ``b""``. `nitrotpm` marks the document of an EC2
    instance with a NitroTPM, whose registers AWS keeps apart under the key ``nitrotpm_pcrs``: it is no enclave.
    """

    raw: bytes = field(repr=False)
    message: cose.Sign1 = field(repr=False, compare=False)
    module_id: str
    digest: str
    timestamp: datetime
    pcrs: Mapping[int, bytes] = field(repr=False, hash=False)
    certificate: bytes = field(repr=False)
    cabundle: tuple[bytes, ...] = field(repr=False)
    public_key: bytes | None = field(repr=False)
    user_data: bytes | None = field(repr=False)
    nonce: bytes | None = field(repr=False)
    nitrotpm: bool

    @classmethod
    def parse(cls, raw: bytes) -> AttestationDocument:
        """Read a document of at most 32 KiB. Raises `AttestationError` (step ``parse``) for anything else."""
        try:
            message = cose.parse(raw, tagged=False, limit=MAX_DOCUMENT_BYTES)
        except CodecError as error:
            _refuse("cose", f"not an untagged COSE_Sign1 ({error.code})")
        if message.protected != PROTECTED:
            _refuse("algorithm", "the protected header must be exactly {1: -35}, ES384")
        # Unsigned, so whatever it says could come from anyone.
        if message.unprotected:
            _refuse("unprotected", "the unprotected header must be empty")
        try:
            payload = cbor.decode_foreign(message.payload, limit=MAX_DOCUMENT_BYTES)
        except CodecError as error:
            _refuse("payload", f"the payload is not acceptable CBOR ({error.code})")
        if not isinstance(payload, dict):
            _refuse("payload", "the payload is not a map")
        # A closed set, as AWS specifies: a further key would make it a kind of document nobody here has judged.
        nitrotpm = "nitrotpm_pcrs" in payload
        required = _REQUIRED | {"nitrotpm_pcrs" if nitrotpm else "pcrs"}
        if not required <= payload.keys() <= required | _OPTIONAL:
            _refuse("fields", "a field is missing or unknown")
        if payload["digest"] != "SHA384":
            _refuse("digest", "digest must be SHA384")
        return cls(
            raw=bytes(raw),
            message=message,
            module_id=_module_id(payload["module_id"]),
            digest="SHA384",
            timestamp=_timestamp(payload["timestamp"]),
            pcrs=_pcrs(payload["nitrotpm_pcrs" if nitrotpm else "pcrs"]),
            certificate=_certificate("certificate", payload["certificate"]),
            cabundle=_cabundle(payload["cabundle"]),
            public_key=_optional("public_key", payload.get("public_key")),
            user_data=_optional("user_data", payload.get("user_data")),
            nonce=_optional("nonce", payload.get("nonce")),
            nitrotpm=nitrotpm,
        )

    @property
    def debug(self) -> bool:
        """Whether the enclave ran in debug mode: its PCR0 is all zero and its console is open to the host."""
        return self.pcrs.get(0) == ZERO_PCR

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the document's bytes. No identity: (r, n − s) signs the same payload as (r, s)."""
        return hashlib.sha256(self.raw).digest()
