"""The ``.aer`` file: a receipt with everything that proves it, so that it verifies offline at any later time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from ephemeralml.attestation.document import MAX_DOCUMENT_BYTES
from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, ReceiptError
from ephemeralml.files import write_whole
from ephemeralml.package.manifest import MAX_MANIFEST_SIZE
from ephemeralml.receipts.receipt import MAX_RECEIPT_BYTES

FORMAT: Final = "ephemeralml-bundle"
VERSION: Final = 1

_LIMITS: Final = {"receipt": MAX_RECEIPT_BYTES, "document": MAX_DOCUMENT_BYTES, "manifest": MAX_MANIFEST_SIZE}
_OVERHEAD = 256
MAX_BUNDLE_BYTES: Final = sum(_LIMITS.values()) + _OVERHEAD


def _refuse(code: str, message: str) -> NoReturn:
    raise ReceiptError(f"bundle: {message}", layer=1, code=f"BUNDLE_{code}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A receipt, the attestation document that vouches for its key, and the signed manifest of the model that answered.

    Deterministic CBOR; holding one proves nothing, `verify_bundle` does. Raises `ReceiptError` (layer 1,
    ``BUNDLE_FIELDS``) for a part that is empty or above its limit.
    """

    receipt: bytes = field(repr=False)
    document: bytes = field(repr=False)
    manifest: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not bytes or not 1 <= len(value) <= limit:
                _refuse("FIELDS", f"{name} must be 1 to {limit} bytes")

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        parts = {name: getattr(self, name) for name in _LIMITS}
        return cbor.encode({"format": FORMAT, "version": VERSION, **parts})

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Read the file's bytes. Raises `ReceiptError` (layer 1, ``BUNDLE_…``) and nothing else, whatever they are."""
        if len(data) > MAX_BUNDLE_BYTES:
            _refuse("TOO_LARGE", f"larger than {MAX_BUNDLE_BYTES} bytes")
        try:
            value = cbor.decode(data, limit=MAX_BUNDLE_BYTES)
        except CodecError as error:
            raise ReceiptError(
                f"bundle: not deterministic CBOR ({error.code})", layer=1, code="BUNDLE_MALFORMED"
            ) from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            _refuse("FORMAT", "this is not an EphemeralML bundle")
        version = value.get("version")
        if type(version) is not int or version != VERSION:
            _refuse("VERSION", f"only version {VERSION} is known here: a newer release may read it")
        parts = {name: part for name, part in value.items() if name not in ("format", "version")}
        if parts.keys() != _LIMITS.keys():
            _refuse("FIELDS", "a field is missing or unknown")
        return cls(**parts)  # type: ignore[arg-type]  # __post_init__ checks them

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all, replacing one that is there. Raises `ReceiptError` when that fails."""
        try:
            write_whole(Path(path), self.to_bytes())
        except OSError as error:
            raise ReceiptError(
                f"bundle: cannot write {path}: {error.strerror}", layer=1, code="BUNDLE_WRITE"
            ) from error

    @staticmethod
    def split(path: str | os.PathLike[str]) -> Iterator[bytes]:
        """The bytes of each bundle of a file that holds one after another, as a long `embed` writes them; one at least.

        What is no bundle is given as it is, for `verify_bundle` to refuse. Raises `ReceiptError` (``BUNDLE_READ``).
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BUNDLE_BYTES + 1)
                while True:
                    end = cbor.first_item(data)
                    yield data[:end]
                    data = data[end:] + file.read(end)
                    if not data:
                        return
        except OSError as error:
            raise ReceiptError(f"bundle: cannot read {path}: {error.strerror}", layer=1, code="BUNDLE_READ") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a file, at most `MAX_BUNDLE_BYTES` of it. Raises `ReceiptError` (layer 1, ``BUNDLE_…``)."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BUNDLE_BYTES + 1)
        except OSError as error:
            raise ReceiptError(f"bundle: cannot read {path}: {error.strerror}", layer=1, code="BUNDLE_READ") from error
        return cls.from_bytes(data)
