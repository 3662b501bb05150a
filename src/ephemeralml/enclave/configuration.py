"""The enclave's configuration: part of what is measured, so changing any of it changes PCR0."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path

from cryptography import x509

from ephemeralml import strict_json
from ephemeralml.codec import cbor
from ephemeralml.errors import ConfigurationError
from ephemeralml.package.manifest import MAX_TEXT_LENGTH, is_printable_text
from ephemeralml.session.limits import Limits

MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Whose models run (raw Ed25519 key), the lowest version that may, the receipts' issuer, and the limits.

    `model_id` None lets any model of that owner run, at the host's choice. With `kms_roots` (certificates in DER) the
    enclave asks KMS for the key itself, over TLS to a server that one of them vouches for, and never the host's broker.
    """

    model_owner: bytes
    model_id: str | None = None
    minimum_model_version: int = 1
    issuer: str = "ephemeralml"
    limits: Limits = field(default_factory=Limits)
    kms_roots: tuple[bytes, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Configuration:
        """Read JSON. Raises `ConfigurationError` for unknown keys, wrong types or a file that is not there."""
        return cls.parse(cls.read(path))

    @staticmethod
    def read(path: Path) -> bytes:
        """The bytes of a configuration file, capped. Raises `ConfigurationError`."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(
                f"enclave configuration {path}: {error.strerror}", code="configuration.unreadable"
            ) from error
        if len(data) > MAX_BYTES:
            raise _bad(f"{path} is larger than {MAX_BYTES} bytes")
        return data

    @classmethod
    def parse(cls, data: bytes) -> Configuration:
        """From the bytes of a configuration file. Raises `ConfigurationError`."""
        try:
            value = strict_json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _bad(f"not JSON: {error}") from error
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: object) -> Configuration:
        """From parsed JSON. Raises `ConfigurationError`."""
        if not isinstance(value, dict):
            raise _bad("a JSON object is needed")
        unknown = set(value) - {item.name for item in fields(cls)}
        if unknown:
            raise _bad(f"unknown keys: {', '.join(sorted(unknown))}")
        owner, model_id, limits = value.get("model_owner"), value.get("model_id"), value.get("limits", {})
        version, issuer = value.get("minimum_model_version", 1), value.get("issuer", "ephemeralml")
        try:
            key = bytes.fromhex(owner) if isinstance(owner, str) else b""
        except ValueError:
            key = b""
        if len(key) != 32:
            raise _bad("model_owner must be the owner's public key, 64 hex digits (`ephemeralml keygen` prints it)")
        if "model_id" in value and not is_printable_text(model_id):
            raise _bad(
                f"model_id must be the model's name in its manifest, 1 to {MAX_TEXT_LENGTH} printable characters"
            )
        if type(version) is not int or not 1 <= version < 2**63:
            raise _bad("minimum_model_version must be an integer from 1")
        if not isinstance(issuer, str) or not 0 < len(issuer) <= 200:
            raise _bad("issuer must be a text of 1 to 200 characters")
        if not isinstance(limits, dict):
            raise _bad("limits must be an object")
        unknown = set(limits) - {item.name for item in fields(Limits)}
        if unknown:
            raise _bad(f"unknown limits: {', '.join(sorted(unknown))}")
        return cls(
            model_owner=key,
            model_id=model_id,
            minimum_model_version=version,
            issuer=issuer,
            limits=Limits(**limits),
            kms_roots=_roots(value["kms_roots"]) if "kms_roots" in value else (),
        )

    def to_bytes(self) -> bytes:
        """The measured form: deterministic CBOR of every value in force, defaults included."""
        # Younger than the rest: a configuration without it keeps its measurements.
        roots: dict[int | str, cbor.Value] = {"kms_roots": list(self.kms_roots)} if self.kms_roots else {}
        return cbor.encode(
            {
                "model_owner": self.model_owner,
                "model_id": self.model_id,
                "minimum_model_version": self.minimum_model_version,
                "issuer": self.issuer,
                "limits": {item.name: getattr(self.limits, item.name) for item in fields(Limits)},
                **roots,
            }
        )

    def to_json(self) -> bytes:
        """A file that `parse` reads, with every value in force: one file for one measured form."""
        optional: dict[str, object] = {} if self.model_id is None else {"model_id": self.model_id}
        if self.kms_roots:
            optional["kms_roots"] = [base64.b64encode(root).decode() for root in self.kms_roots]
        value = {
            "model_owner": self.model_owner.hex(),
            "minimum_model_version": self.minimum_model_version,
            "issuer": self.issuer,
            "limits": {item.name: getattr(self.limits, item.name) for item in fields(Limits)},
            **optional,
        }
        return json.dumps(value, indent=2).encode() + b"\n"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the measured form."""
        return sha256(self.to_bytes()).digest()


def _roots(value: object) -> tuple[bytes, ...]:
    try:
        if not isinstance(value, list) or not value:
            raise TypeError
        roots = tuple(base64.b64decode(item, validate=True) for item in value)
        for root in roots:
            x509.load_der_x509_certificate(root)
    except (ValueError, TypeError) as error:
        raise _bad("kms_roots must be a list of certificates, at least one, each in base64 of DER") from error
    return roots


def _bad(why: str) -> ConfigurationError:
    return ConfigurationError(f"enclave configuration: {why}", code="configuration.malformed")
