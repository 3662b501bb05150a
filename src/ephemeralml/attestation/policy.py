"""What a relying party accepts: whole measurement sets, models, and the roots besides AWS's."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ephemeralml import strict_json
from ephemeralml.attestation.document import PCR_BYTES, ZERO_PCR
from ephemeralml.codec.certificates import UNREADABLE
from ephemeralml.errors import PolicyError

MAX_POLICY_BYTES: Final = 1 << 20
MODEL_DIGEST_BYTES: Final = 32

_VERSION = 1
_MEASURED = {"pcr0": 0, "pcr1": 1, "pcr2": 2, "pcr3": 3, "pcr4": 4, "pcr8": 8}
_PCR_HEX = re.compile(f"[0-9a-fA-F]{{{2 * PCR_BYTES}}}")
_DIGEST_HEX = re.compile(f"[0-9a-fA-F]{{{2 * MODEL_DIGEST_BYTES}}}")


def _refuse(code: str, message: str) -> NoReturn:
    raise PolicyError(f"policy: {message}", code=f"policy.{code}")


def _measurement(name: str, value: object) -> bytes:
    if isinstance(value, str) and _PCR_HEX.fullmatch(value):
        value = bytes.fromhex(value)
    if not isinstance(value, bytes) or len(value) != PCR_BYTES:
        _refuse("measurement", f"{name} must be {PCR_BYTES} bytes or {2 * PCR_BYTES} hex digits")
    if value == ZERO_PCR:
        _refuse("zero_measurement", f"{name} is all zero: that is a debug enclave, whose memory the host can read")
    return value


def _model(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != MODEL_DIGEST_BYTES:
        _refuse("model", f"a model digest must be {MODEL_DIGEST_BYTES} bytes")
    return value


def _version(value: object) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        _refuse("minimum_model_version", "minimum_model_version must be a whole number from 1")
    return value


def _model_id(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        _refuse("model_id", "model_id must be the name in the model's manifest")
    return value


def _root(value: object) -> bytes:
    if isinstance(value, x509.Certificate):
        return value.public_bytes(Encoding.DER)
    if not isinstance(value, bytes):
        _refuse("extra_root", "an extra root must be a certificate or its DER bytes")
    try:
        x509.load_der_x509_certificate(value)
    except UNREADABLE:
        _refuse("extra_root", "an extra root is not a DER certificate")
    return value


@dataclass(frozen=True, slots=True, init=False)
class Measurements:
    """The registers of one release, matched as a whole: PCR0, 1, 2 always, PCR3, 4, 8 where given.

    Each is 48 bytes or 96 hex digits and not all zero, else `PolicyError`. PCR0 is the image, PCR1 kernel and boot
    ramdisk, PCR2 the application, PCR3 the parent's IAM role, PCR4 its instance id, PCR8 the image's signer.
    """

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr3: bytes | None
    pcr4: bytes | None
    pcr8: bytes | None

    def __init__(
        self,
        *,
        pcr0: bytes | str,
        pcr1: bytes | str,
        pcr2: bytes | str,
        pcr3: bytes | str | None = None,
        pcr4: bytes | str | None = None,
        pcr8: bytes | str | None = None,
    ) -> None:
        for name, value in (("pcr0", pcr0), ("pcr1", pcr1), ("pcr2", pcr2)):
            object.__setattr__(self, name, _measurement(name, value))
        for name, optional in (("pcr3", pcr3), ("pcr4", pcr4), ("pcr8", pcr8)):
            object.__setattr__(self, name, None if optional is None else _measurement(name, optional))

    @property
    def registers(self) -> Mapping[int, bytes]:
        """Register index to the 48 bytes required of it."""
        named = ((index, getattr(self, name)) for name, index in _MEASURED.items())
        return {index: value for index, value in named if value is not None}


@dataclass(frozen=True, slots=True, init=False)
class Policy:
    """What evidence must show. Cannot be built without measurements; an evidence's registers must equal one whole set.

    `models`: manifest digests (32 bytes each) that are acceptable, any when empty. `model_id`: the only model that is,
    by its manifest's name. `minimum_model_version` guards against rollback. `extra_roots`: development roots (DER or
    certificate) accepted besides the AWS Nitro root; evidence under them is never confidential. Raises `PolicyError`.
    """

    measurements: tuple[Measurements, ...]
    models: frozenset[bytes]
    model_id: str | None
    minimum_model_version: int | None
    extra_roots: tuple[bytes, ...]
    insecure: bool

    def __init__(
        self,
        *,
        measurements: Sequence[Measurements],
        models: Collection[bytes] = (),
        model_id: str | None = None,
        minimum_model_version: int | None = None,
        extra_roots: Sequence[bytes | x509.Certificate] = (),
    ) -> None:
        sets = tuple(measurements)
        if not sets or not all(isinstance(item, Measurements) for item in sets):
            _refuse("measurements", "at least one set of Measurements is needed, or the policy would accept anybody")
        self._fill(sets, models, model_id, minimum_model_version, extra_roots)

    @classmethod
    def insecure_any_measurement(
        cls,
        *,
        models: Collection[bytes] = (),
        model_id: str | None = None,
        minimum_model_version: int | None = None,
        extra_roots: Sequence[bytes | x509.Certificate] = (),
    ) -> Policy:
        """A policy that proves the platform only: any code, debug mode included. Every verdict under it says so."""
        policy = cls.__new__(cls)
        policy._fill(None, models, model_id, minimum_model_version, extra_roots)
        return policy

    def _fill(
        self,
        measurements: tuple[Measurements, ...] | None,
        models: Collection[bytes],
        model_id: str | None,
        minimum_model_version: int | None,
        extra_roots: Sequence[bytes | x509.Certificate],
    ) -> None:
        object.__setattr__(self, "measurements", measurements or ())
        object.__setattr__(self, "models", frozenset(_model(digest) for digest in models))
        object.__setattr__(self, "model_id", _model_id(model_id))
        object.__setattr__(self, "minimum_model_version", _version(minimum_model_version))
        object.__setattr__(self, "extra_roots", tuple(_root(root) for root in extra_roots))
        object.__setattr__(self, "insecure", measurements is None)

    def to_json(self) -> str:
        """The policy as JSON: hex registers and digests, base64 DER roots."""
        fields: dict[str, object] = {"version": _VERSION}
        if self.insecure:
            fields["insecure_any_measurement"] = True
        else:
            fields["measurements"] = [
                {name: value.hex() for name in _MEASURED if (value := getattr(item, name)) is not None}
                for item in self.measurements
            ]
        if self.models:
            fields["models"] = sorted(digest.hex() for digest in self.models)
        if self.model_id is not None:
            fields["model_id"] = self.model_id
        if self.minimum_model_version is not None:
            fields["minimum_model_version"] = self.minimum_model_version
        if self.extra_roots:
            fields["extra_roots"] = [base64.b64encode(root).decode() for root in self.extra_roots]
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Read what `to_json` wrote. Raises `PolicyError` for an unknown or repeated key, a wrong type or value."""
        fields = _parse(text)
        version = fields.pop("version", None)
        if type(version) is not int or version != _VERSION:
            _refuse("version", f"version must be {_VERSION}")
        insecure = fields.pop("insecure_any_measurement", None)
        sets = fields.pop("measurements", None)
        models = [_from_hex(item) for item in _array("models", fields.pop("models", []))]
        model_id = _model_id(fields.pop("model_id", None))
        minimum = _version(fields.pop("minimum_model_version", None))
        roots = [_from_base64(item) for item in _array("extra_roots", fields.pop("extra_roots", []))]
        if fields:
            _refuse("unknown_key", f"unknown key {min(fields)!r}")
        if insecure is not None:
            if insecure is not True or sets is not None:
                _refuse("insecure", "insecure_any_measurement must be true and stand without measurements")
            return cls.insecure_any_measurement(
                models=models, model_id=model_id, minimum_model_version=minimum, extra_roots=roots
            )
        return cls(
            measurements=[_measurements_from(item) for item in _array("measurements", sets)],
            models=models,
            model_id=model_id,
            minimum_model_version=minimum,
            extra_roots=roots,
        )

    def save(self, path: str | Path) -> None:
        """Write the policy as JSON, replacing the file. Raises `PolicyError` when that fails."""
        try:
            Path(path).write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise PolicyError(f"policy: cannot write {path}: {error.strerror}", code="policy.write") from error

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file. Raises `PolicyError` when it cannot be read or would not protect anybody."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_POLICY_BYTES + 1)
        except OSError as error:
            raise PolicyError(f"policy: cannot read {path}: {error.strerror}", code="policy.read") from error
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            _refuse("json", "not a UTF-8 text")
        return cls.from_json(text)


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_POLICY_BYTES:
        _refuse("size", f"larger than {MAX_POLICY_BYTES} bytes")
    try:
        fields = strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse("json", f"not JSON: {error}")
    if not isinstance(fields, dict):
        _refuse("json", "a JSON object is needed")
    return fields


def _array(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        _refuse(name, f"{name} must be an array")
    return value


def _from_hex(value: object) -> bytes:
    if not isinstance(value, str) or not _DIGEST_HEX.fullmatch(value):
        _refuse("model", f"a model digest must be {2 * MODEL_DIGEST_BYTES} hex digits")
    return bytes.fromhex(value)


def _from_base64(value: object) -> bytes:
    try:
        decoded = base64.b64decode(value if isinstance(value, str) else "*", validate=True)
    except (binascii.Error, ValueError):
        decoded = None
    # How much needless padding the decoder overlooks differs between versions of Python.
    if decoded is None or base64.b64encode(decoded).decode() != value:
        _refuse("extra_root", "an extra root must be base64 of a DER certificate")
    return decoded


def _measurements_from(value: object) -> Measurements:
    if not isinstance(value, dict) or not {"pcr0", "pcr1", "pcr2"} <= value.keys() <= _MEASURED.keys():
        _refuse("measurement", "a set needs pcr0, pcr1 and pcr2, and may have pcr3, pcr4 and pcr8")
    if not all(isinstance(item, str) for item in value.values()):
        _refuse("measurement", f"a register must be {2 * PCR_BYTES} hex digits")
    return Measurements(**value)
