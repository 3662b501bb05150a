"""The claims of an AIR v1 receipt (draft-tsyrulnikov-rats-attested-inference-receipt-02): a closed CWT claims map.

The draft carries an IPR disclosure (IETF 7182). A `Claims` object that exists satisfies every rule of layer 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, ReceiptError

PROFILE: Final = "https://spec.cyntrisec.com/air/v1"
NITRO_PCR: Final = "nitro-pcr"
TDX_MRTD_RTMR: Final = "tdx-mrtd-rtmr"
PRODUCTION: Final = "production"
EVALUATION: Final = "evaluation"
SHA256_MANIFEST: Final = "sha256-manifest"

MAX_PAYLOAD_BYTES: Final = 65_536
MAX_TEXT_BYTES: Final = 1024

_EAT_PROFILE = 265
_ENCLAVE_MEASUREMENTS = -65543
# In deterministic order, so that encoding has nothing to move.
_KEYS: Final = {
    "iss": 1,
    "iat": 6,
    "cti": 7,
    "eat_nonce": 10,
    "model_id": -65537,
    "model_version": -65538,
    "model_hash": -65539,
    "request_hash": -65540,
    "response_hash": -65541,
    "attestation_doc_hash": -65542,
    "enclave_measurements": _ENCLAVE_MEASUREMENTS,
    "policy_version": -65544,
    "sequence_number": -65545,
    "execution_time_ms": -65546,
    "memory_peak_mb": -65547,
    "security_mode": -65548,
    "model_hash_scheme": -65549,
}
_NAMES: Final = {key: name for name, key in _KEYS.items()} | {_EAT_PROFILE: "eat_profile"}
_OPTIONAL: Final = frozenset({"eat_nonce", "model_hash_scheme"})
_TEXTS: Final = ("iss", "model_id", "model_version", "policy_version", "security_mode")
_HASHES: Final = ("model_hash", "request_hash", "response_hash", "attestation_doc_hash")
_COUNTERS: Final = ("iat", "sequence_number", "execution_time_ms", "memory_peak_mb")
_PCRS: Final = ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8")
_REQUIRED_PCRS: Final = _PCRS[:3]
_PCR_BYTES = 48
_SECURITY_MODES: Final = frozenset({PRODUCTION, EVALUATION})
_MODEL_HASH_SCHEMES: Final = frozenset({"sha256-single", "sha256-concat", SHA256_MANIFEST})
_ZERO_HASH = bytes(32)
_ZERO_CTI = bytes(16)


def _refuse(code: str, message: str) -> NoReturn:
    raise ReceiptError(message, layer=3, code=code)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveMeasurements:
    """The platform's registers, 48 bytes each. On TDX they hold MRTD and RTMR0–3, and `pcr8` does not exist.

    Raises `ReceiptError` (layer 3) for an unknown type or a wrong size.
    """

    measurement_type: str
    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr3: bytes | None = None
    pcr4: bytes | None = None
    pcr8: bytes | None = None

    def __post_init__(self) -> None:
        if self.measurement_type not in (NITRO_PCR, TDX_MRTD_RTMR):
            _refuse("UNKNOWN_MTYPE", "enclave_measurements: unknown measurement_type")
        for name in _PCRS:
            value = getattr(self, name)
            if value is None and name not in _REQUIRED_PCRS:
                continue
            if type(value) is not bytes or len(value) != _PCR_BYTES:
                _refuse("BAD_MEASUREMENT_LENGTH", f"enclave_measurements: {name} must be {_PCR_BYTES} bytes")
        if self.measurement_type == TDX_MRTD_RTMR and self.pcr8 is not None:
            _refuse("TDX_PCR8_FORBIDDEN", "enclave_measurements: pcr8 is not a TDX register")

    @property
    def registers(self) -> dict[str, bytes]:
        """The registers that are present, by name."""
        return {name: value for name in _PCRS if (value := getattr(self, name)) is not None}

    def to_map(self) -> dict[str, bytes | str]:
        """The claim's value."""
        return {**self.registers, "measurement_type": self.measurement_type}

    @classmethod
    def from_map(cls, value: object) -> EnclaveMeasurements:
        """Read the claim's value. Raises `ReceiptError` (layer 3)."""
        if not isinstance(value, dict):
            _refuse("WRONG_TYPE", "enclave_measurements must be a map")
        if not value.keys() <= {*_PCRS, "measurement_type"}:
            _refuse("UNKNOWN_MEASUREMENT_KEY", "enclave_measurements has a key outside the closed set")
        # Present is present: a null register is a wrong one, not an absent one.
        if None in value.values():
            _refuse("BAD_MEASUREMENT_LENGTH", "enclave_measurements holds a null")
        fields = {"measurement_type": None, **dict.fromkeys(_REQUIRED_PCRS), **value}
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one receipt says. `iat` is in Unix seconds, hashes are SHA-256, texts are 1 to 1024 bytes of UTF-8.

    `sequence_number`, `execution_time_ms` and `memory_peak_mb` are informational. Raises `ReceiptError` (layer 3) for
    a value outside the draft's rules, so neither issuing nor verifying ever sees one.
    """

    iss: str
    iat: int
    cti: bytes
    eat_nonce: bytes | None = None
    model_id: str
    model_version: str
    model_hash: bytes
    request_hash: bytes
    response_hash: bytes
    attestation_doc_hash: bytes
    enclave_measurements: EnclaveMeasurements
    policy_version: str
    sequence_number: int
    execution_time_ms: int
    memory_peak_mb: int
    security_mode: str
    model_hash_scheme: str | None = None

    def __post_init__(self) -> None:
        for name in _TEXTS:
            _check_text(name, getattr(self, name))
        for name in _COUNTERS:
            _check_counter(name, getattr(self, name))
        if self.iat == 0:
            _refuse("IAT_ZERO", "iat must not be zero")
        _check_bytes("cti", self.cti, 16, 16, "BAD_CTI_LENGTH")
        if self.cti == _ZERO_CTI:
            _refuse("ZERO_CTI", "cti is all zeros")
        if self.eat_nonce is not None:
            _check_bytes("eat_nonce", self.eat_nonce, 8, 64, "BAD_NONCE_LENGTH")
        for name in _HASHES:
            _check_bytes(name, getattr(self, name), 32, 32, "BAD_HASH_LENGTH")
        if self.model_hash == _ZERO_HASH:
            _refuse("ZERO_MODEL_HASH", "model_hash is all zeros")
        if type(self.enclave_measurements) is not EnclaveMeasurements:
            _refuse("WRONG_TYPE", "enclave_measurements must be an EnclaveMeasurements")
        if self.security_mode not in _SECURITY_MODES:
            _refuse("UNKNOWN_SECURITY_MODE", "security_mode must be production or evaluation")
        if self.model_hash_scheme is not None:
            _check_text("model_hash_scheme", self.model_hash_scheme)
            if self.model_hash_scheme not in _MODEL_HASH_SCHEMES:
                _refuse("UNKNOWN_MODEL_HASH_SCHEME", "model_hash_scheme is not one the draft defines")

    def to_payload(self) -> bytes:
        """The deterministic encoding that is signed."""
        claims: dict[int, Any] = {
            key: value for name, key in _KEYS.items() if (value := getattr(self, name)) is not None
        }
        claims[_EAT_PROFILE] = PROFILE
        claims[_ENCLAVE_MEASUREMENTS] = self.enclave_measurements.to_map()
        return cbor.encode(claims)

    @classmethod
    def from_payload(cls, payload: bytes) -> Claims:
        """Read a signed payload. Raises `ReceiptError` (layer 1 for its shape, layer 3 for its claims)."""
        return cls.from_map(decode_payload(payload))

    @classmethod
    def from_map(cls, claims: Mapping[int | str, cbor.Value]) -> Claims:
        """Read the map `decode_payload` returned. Raises `ReceiptError` (layer 3)."""
        if not claims.keys() <= _NAMES.keys():
            _refuse("UNKNOWN_CLAIM_KEY", "the claims map is closed and holds an unknown key")
        fields: dict[str, Any] = {}
        for name, key in _KEYS.items():
            if key in claims:
                # A null would pass for an absent optional claim, and is not one.
                if claims[key] is None:
                    _refuse("WRONG_TYPE", f"{name} is null")
                fields[name] = claims[key]
            elif name not in _OPTIONAL:
                _refuse("MISSING_CLAIM", f"{name} is missing")
        fields["enclave_measurements"] = EnclaveMeasurements.from_map(fields["enclave_measurements"])
        return cls(**fields)


def decode_payload(payload: bytes) -> dict[int | str, cbor.Value]:
    """Layer 1 of the payload: deterministic CBOR, a map, the AIR v1 profile. Raises `ReceiptError` (layer 1)."""
    try:
        claims = cbor.decode(payload, limit=MAX_PAYLOAD_BYTES)
    except CodecError as error:
        code = "NON_DETERMINISTIC_CBOR" if error.code == "cbor.order" else "PAYLOAD_NOT_MAP"
        raise ReceiptError(f"the payload is not acceptable CBOR ({error.code})", layer=1, code=code) from error
    if not isinstance(claims, dict):
        raise ReceiptError("payload is not a CBOR map", layer=1, code="PAYLOAD_NOT_MAP")
    if claims.get(_EAT_PROFILE) != PROFILE:
        raise ReceiptError("eat_profile is not AIR v1's", layer=1, code="WRONG_PROFILE")
    return claims


def _check_text(name: str, value: object) -> None:
    if type(value) is not str:
        _refuse("WRONG_TYPE", f"{name} must be text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        _refuse("WRONG_TYPE", f"{name} is not valid Unicode")
    if size == 0:
        _refuse("EMPTY_TEXT", f"{name} is empty")
    if size > MAX_TEXT_BYTES:
        _refuse("TEXT_TOO_LONG", f"{name} is {size} bytes, more than {MAX_TEXT_BYTES}")


def _check_counter(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < 2**64:
        _refuse("WRONG_TYPE", f"{name} must be an unsigned 64-bit integer")


def _check_bytes(name: str, value: object, least: int, most: int, code: str) -> None:
    if type(value) is not bytes:
        _refuse("WRONG_TYPE", f"{name} must be bytes")
    if not least <= len(value) <= most:
        _refuse(code, f"{name} is {len(value)} bytes")
