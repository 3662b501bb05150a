"""Two kinds of key: the model owner's signing key in a file, and the data key a key management service hands out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.errors import ConfigurationError

MAX_KEY_FILE_SIZE: Final = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """A fresh 32-byte DEK, and the same wrapped by the KMS key `key_arn`."""

    plaintext: bytes = field(repr=False)
    wrapped: bytes
    key_arn: str
    provider: str


class KeyProvider(Protocol):
    """Where `pack` gets a package's DEK."""

    def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
        """A new DEK bound to `encryption_context`."""
        ...


def generate_owner_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Make a model owner's key: PKCS#8 PEM at `path` (mode 0600, no passphrase), its public key at ``<path>.pub``.

    The public file holds 64 hexadecimal digits, as the enclave's configuration wants them. Raises `ConfigurationError`
    (``key.exists``, ``key.unwritable``) and overwrites nothing; either both files are there afterwards or neither.
    """
    private, public = Path(path), Path(f"{os.fspath(path)}.pub")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made: list[Path] = []
    try:
        for file, content, mode in (
            (private, pem, 0o600),
            (public, key.public_key().public_bytes_raw().hex().encode() + b"\n", 0o644),
        ):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            made.append(file)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
    except BaseException as error:
        for file in made:
            file.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise ConfigurationError(f"{error.filename} exists; choose another name", code="key.exists") from None
        if isinstance(error, OSError):
            raise ConfigurationError(
                f"cannot write the key {private}: {error.strerror}", code="key.unwritable"
            ) from error
        raise
    return key


def load_owner_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Read a key `generate_owner_key` wrote.

    Raises `ConfigurationError`: ``key.unreadable``, ``key.malformed`` (not an unencrypted PEM private key) or
    ``key.type`` (not Ed25519).
    """
    try:
        with Path(path).open("rb") as stream:
            pem = stream.read(MAX_KEY_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the owner's key {os.fspath(path)}: {error.strerror}", code="key.unreadable"
        ) from error
    if len(pem) > MAX_KEY_FILE_SIZE:
        raise ConfigurationError(f"{os.fspath(path)} is too large for a key", code="key.malformed")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The parser's own message could quote the file.
        raise ConfigurationError(
            f"{os.fspath(path)} is not an unencrypted private key in PEM", code="key.malformed"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"{os.fspath(path)} is not an Ed25519 key; make one with `ephemeralml keygen`", code="key.type"
        )
    return key
