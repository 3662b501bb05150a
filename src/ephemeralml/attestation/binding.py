"""What user_data says: which key and model a document is for. One purpose each, so that none serves another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from ephemeralml.codec import cbor
from ephemeralml.errors import AttestationError, CodecError

DIGEST_BYTES: Final = 32
ID_BYTES: Final = 16
_MAX_BYTES = 1024


def _read(data: bytes | None, purpose: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The byte strings of a deterministic CBOR map with exactly `purpose` and the keys of `sizes`."""
    refusal = AttestationError(
        f"the document's user_data does not bind it to the purpose {purpose!r}",
        step="key binding",
        code="key_binding.user_data",
    )
    try:
        value = cbor.decode(data or b"", limit=_MAX_BYTES)
    except CodecError as error:
        raise refusal from error
    if not isinstance(value, dict) or value.keys() != {"purpose", *sizes} or value["purpose"] != purpose:
        raise refusal
    fields = {}
    for name, size in sizes.items():
        item = value[name]
        if not isinstance(item, bytes) or len(item) != size:
            raise refusal
        fields[name] = item
    return fields


def _write(purpose: str, sizes: Mapping[str, int], values: Mapping[str, bytes]) -> bytes:
    for name, size in sizes.items():
        if len(values[name]) != size:
            raise ValueError(f"{name} must be {size} bytes")
    return cbor.encode({"purpose": purpose, **values})


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBinding:
    """The user_data of session evidence (DESIGN section 4).

    `hpke`: SHA-256 of the enclave's HPKE public key; `model`: manifest digest; `config`: digest of the enclave's
    configuration, 32 bytes each; `boot`: boot id, 16 bytes.
    """

    PURPOSE: ClassVar[str] = "session"
    SIZES: ClassVar[Mapping[str, int]] = {
        "hpke": DIGEST_BYTES,
        "model": DIGEST_BYTES,
        "config": DIGEST_BYTES,
        "boot": ID_BYTES,
    }

    hpke: bytes
    model: bytes
    config: bytes
    boot: bytes

    def to_user_data(self) -> bytes:
        """Deterministic CBOR. Raises ValueError for a field of the wrong size."""
        values = {"hpke": self.hpke, "model": self.model, "config": self.config, "boot": self.boot}
        return _write(self.PURPOSE, self.SIZES, values)

    @classmethod
    def from_user_data(cls, data: bytes | None) -> SessionBinding:
        """Read a document's user_data. Raises `AttestationError` (step ``key binding``) for anything else."""
        return cls(**_read(data, cls.PURPOSE, cls.SIZES))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReleaseBinding:
    """The user_data of a key-release document (DESIGN section 6): package id, 16 bytes, and manifest digest, 32."""

    PURPOSE: ClassVar[str] = "key-release"
    SIZES: ClassVar[Mapping[str, int]] = {"package": ID_BYTES, "model": DIGEST_BYTES}

    package: bytes
    model: bytes

    def to_user_data(self) -> bytes:
        """Deterministic CBOR. Raises ValueError for a field of the wrong size."""
        return _write(self.PURPOSE, self.SIZES, {"package": self.package, "model": self.model})

    @classmethod
    def from_user_data(cls, data: bytes | None) -> KeyReleaseBinding:
        """Read a document's user_data. Raises `AttestationError` (step ``key binding``) for anything else."""
        return cls(**_read(data, cls.PURPOSE, cls.SIZES))
