"""The package manifest: deterministic CBOR in a tagged COSE_Sign1 by the model owner; all an outsider can read."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeGuard, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.codec import cbor, cose
from ephemeralml.errors import CodecError, PackageError, UnsupportedModelError
from ephemeralml.package import stream
from ephemeralml.package.model import ModelSpec

FORMAT: Final = 1
# It rides in one handshake frame (64 KiB) beside the attestation document.
MAX_MANIFEST_SIZE: Final = 32 << 10
MAX_ARTIFACTS: Final = 64
MAX_ARTIFACT_SIZE: Final = 4 << 30
MAX_NAME_LENGTH: Final = 255
MAX_TEXT_LENGTH: Final = 256
MAX_WRAPPED_DEK_SIZE: Final = 6144  # KMS Decrypt's limit for CiphertextBlob

PROVIDER_AWS_KMS: Final = "aws-kms"

_TYPE = "ephemeralml-manifest"
_PROTECTED = {cose.ALG: cose.EDDSA}
_MAX_CREATED_AT = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second datetime can show
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_HEX = "[0-9a-f]"
_KEY_ARN = re.compile(
    rf"arn:aws(-[a-z]+)*:kms:[a-z0-9-]{{1,32}}:[0-9]{{12}}:key/"
    rf"({_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}|mrk-{_HEX}{{32}})"
)
_SPEC_TYPES: Final[Mapping[str, type]] = {
    "architecture": str,
    "pooling": str,
    "normalize": bool,
    "max_sequence_length": int,
    "dimension": int,
    "precision": str,
}

T = TypeVar("T")


def _malformed(message: str) -> NoReturn:
    raise PackageError(f"the manifest is malformed: {message}", code="manifest.malformed")


def _too_large() -> PackageError:
    return PackageError(f"the manifest is larger than {MAX_MANIFEST_SIZE} bytes", code="manifest.too_large")


def _check_bytes(value: object, what: str, low: int, high: int) -> None:
    if type(value) is not bytes or not low <= len(value) <= high:
        _malformed(f"{what} is not a byte string of {low}{f' to {high}' if high != low else ''} bytes")


def _check_integer(value: object, what: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        _malformed(f"{what} is not an integer from {low} to {high}")


def is_printable_text(value: object) -> TypeGuard[str]:
    """Whether `value` is a text as a manifest may hold one: an outsider's terminal shows these."""
    return type(value) is str and 1 <= len(value) <= MAX_TEXT_LENGTH and value.isprintable()


def _check_text(value: object, what: str) -> None:
    if not is_printable_text(value):
        _malformed(f"{what} is not printable text of 1 to {MAX_TEXT_LENGTH} characters")


def is_artifact_name(name: object) -> bool:
    """Whether `name` is a relative POSIX path of plain ASCII segments, none starting with a dot, 255 bytes at most."""
    return isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def check_identity(*, model_id: object, version: object, license: object) -> None:  # noqa: A002
    """Check what the owner chooses about a package. Raises `PackageError` (``manifest.malformed``) naming the field."""
    _check_text(model_id, "model_id")
    _check_integer(version, "version", 1, 2**63 - 1)
    _check_text(license, "license")


def encryption_context(package_id: bytes, model_id: str) -> dict[str, str]:
    """The KMS encryption context of a package's DEK: exactly these two entries."""
    return {"ephemeralml:package": package_id.hex(), "ephemeralml:model": model_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One encrypted file. `size` and `sha256` are the plaintext's, `chunk_size` is in plaintext bytes."""

    name: str
    size: int
    ciphertext_size: int
    sha256: bytes
    salt: bytes
    chunk_size: int

    def __post_init__(self) -> None:
        if not is_artifact_name(self.name):
            _malformed(f"an artifact's name is not a safe relative path of at most {MAX_NAME_LENGTH} bytes")
        _check_integer(self.size, "size", 0, MAX_ARTIFACT_SIZE)
        _check_integer(self.chunk_size, "chunk_size", stream.MIN_CHUNK_SIZE, stream.MAX_CHUNK_SIZE)
        expected = stream.ciphertext_size(self.size, self.chunk_size)
        _check_integer(self.ciphertext_size, "ciphertext_size", expected, expected)
        _check_bytes(self.sha256, "sha256", 32, 32)
        _check_bytes(self.salt, "salt", stream.SALT_SIZE, stream.SALT_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """Who can unwrap the package's DEK. `key_arn` names a KMS key, never an alias, which its owner could repoint."""

    provider: str
    key_arn: str
    encryption_context: Mapping[str, str]
    wrapped_dek: bytes

    def __post_init__(self) -> None:
        if self.provider != PROVIDER_AWS_KMS:
            _malformed(f"the key's provider is not {PROVIDER_AWS_KMS}")
        _check_text(self.key_arn, "key_arn")
        if _KEY_ARN.fullmatch(self.key_arn) is None:
            _malformed("key_arn is not the ARN of a KMS key (an alias can be repointed, so it is not accepted)")
        if not isinstance(self.encryption_context, Mapping):
            _malformed("encryption_context is not a map")
        object.__setattr__(self, "encryption_context", MappingProxyType(dict(self.encryption_context)))
        _check_bytes(self.wrapped_dek, "wrapped_dek", 1, MAX_WRAPPED_DEK_SIZE)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a package is and how to open it. `created_at` is in Unix seconds, `owner` a raw Ed25519 public key.

    Building one raises `PackageError` (``manifest.malformed``) for any field outside its type or limits.
    """

    package_id: bytes
    model_id: str
    version: int
    spec: ModelSpec
    created_at: int
    license: str
    owner: bytes
    artifacts: tuple[Artifact, ...]
    key: KeyRecord

    def __post_init__(self) -> None:
        _check_bytes(self.package_id, "package_id", stream.PACKAGE_ID_SIZE, stream.PACKAGE_ID_SIZE)
        check_identity(model_id=self.model_id, version=self.version, license=self.license)
        _check_integer(self.created_at, "created_at", 0, _MAX_CREATED_AT)
        _check_bytes(self.owner, "owner", 32, 32)
        if not 1 <= len(self.artifacts) <= MAX_ARTIFACTS:
            _malformed(f"there are not 1 to {MAX_ARTIFACTS} artifacts")
        if len({artifact.name for artifact in self.artifacts}) != len(self.artifacts):
            _malformed("two artifacts have one name")
        if self.key.encryption_context != encryption_context(self.package_id, self.model_id):
            _malformed("encryption_context is not that of this package and model")

    # Every answer is checked against it, and encoding a manifest takes longer than all else about an answer.
    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the signed payload: ``model_hash`` in receipts, ``model`` in a session's evidence."""
        return hashlib.sha256(self.to_payload()).digest()

    def artifact(self, name: str) -> Artifact:
        """The artifact called `name`. Raises `PackageError` (``artifact.unknown``)."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise PackageError("the package has no artifact of that name", code="artifact.unknown")

    def to_payload(self) -> bytes:
        """The deterministic CBOR that is signed."""
        names = (field.name for field in dataclasses.fields(self))
        value: dict[str, Any] = {"type": _TYPE, "format": FORMAT, **{name: getattr(self, name) for name in names}}
        value["spec"] = dataclasses.asdict(self.spec)
        value["artifacts"] = [dataclasses.asdict(artifact) for artifact in self.artifacts]
        names = (field.name for field in dataclasses.fields(self.key))
        value["key"] = {name: getattr(self.key, name) for name in names}
        value["key"]["encryption_context"] = dict(self.key.encryption_context)
        return cbor.encode(value)

    def sign(self, private_key: Ed25519PrivateKey) -> bytes:
        """The tagged COSE_Sign1 (EdDSA). Raises `PackageError`: ``manifest.owner`` (another key) or ``.too_large``."""
        if private_key.public_key().public_bytes_raw() != self.owner:
            raise PackageError("the signing key is not the manifest's owner", code="manifest.owner")
        signed = cose.sign(self.to_payload(), private_key, protected=_PROTECTED, tagged=True)
        if len(signed) > MAX_MANIFEST_SIZE:
            raise _too_large()
        return signed

    @classmethod
    def verify(cls, signed: bytes, *, owner: bytes | None) -> Manifest:
        """Read a signed manifest by `owner`, a raw 32-byte Ed25519 public key.

        None takes the owner the manifest itself names: that shows integrity, and says nothing of who made it.
        Raises `PackageError`: ``manifest.too_large``, ``.malformed``, ``.format``, ``.owner``, ``.signature`` or
        ``.unsupported``; nothing else for any bytes whatever.
        """
        if len(signed) > MAX_MANIFEST_SIZE:
            raise _too_large()
        try:
            message = cose.parse(signed, tagged=True, limit=MAX_MANIFEST_SIZE)
            # The envelope too has one spelling: no second file carries the same signature.
            parts = [cbor.encode(_PROTECTED), {}, message.payload, message.signature]
            if cbor.encode(parts) != signed[1:]:
                _malformed("not the COSE_Sign1 this format uses")
            value = cbor.decode(message.payload, limit=MAX_MANIFEST_SIZE)
        except CodecError as error:
            raise PackageError(f"the manifest is malformed: {error}", code="manifest.malformed") from error
        if not isinstance(value, dict) or value.get("type") != _TYPE:
            _malformed("it is not a package manifest")
        named = value.get("owner")
        if not isinstance(named, bytes):
            _malformed("owner is not a byte string")
        if owner is not None and not hmac.compare_digest(named, owner):
            raise PackageError("the package is not by the model owner that is trusted here", code="manifest.owner")
        if not cose.verify_ed25519(message, named):
            raise PackageError("the manifest's signature is not its owner's", code="manifest.signature")
        return _read_manifest(value)


def _build(cls: type[T], value: object, **parts: object) -> T:
    """`cls` from a CBOR map with exactly its fields' names; the class checks the values. `parts` are built already."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(value, dict) or value.keys() != names:
        _malformed(f"the fields of {cls.__name__} are not exactly those of format {FORMAT}")
    return cls(**(value | parts))


def _read_manifest(value: dict[Any, Any]) -> Manifest:
    fields = dict(value)
    del fields["type"]
    version = fields.pop("format", None)
    if version != FORMAT or type(version) is not int:
        raise PackageError(f"the manifest is not of format {FORMAT}, the only one known here", code="manifest.format")
    artifacts = fields.get("artifacts")
    if not isinstance(artifacts, list):
        _malformed("artifacts is not a list")
    return _build(
        Manifest,
        fields,
        spec=_read_spec(fields.get("spec")),
        artifacts=tuple(_build(Artifact, artifact) for artifact in artifacts),
        key=_build(KeyRecord, fields.get("key")),
    )


def _read_spec(value: object) -> ModelSpec:
    if not isinstance(value, dict) or {name: type(item) for name, item in value.items()} != _SPEC_TYPES:
        _malformed(f"the fields of ModelSpec are not exactly those of format {FORMAT}")
    try:
        return _build(ModelSpec, value)
    except UnsupportedModelError as error:
        raise PackageError(f"the package's model cannot run here: {error}", code="manifest.unsupported") from error
