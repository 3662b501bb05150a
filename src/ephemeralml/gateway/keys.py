"""API keys: 256 random bits each, of which a file holds the SHA-256 alone."""

from __future__ import annotations

import os
import re
import secrets
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Final, Self

from ephemeralml.errors import ConfigurationError

MAX_FILE_BYTES: Final = 1 << 20
_CODE = "gateway.keys"
_LINE = re.compile(r"([0-9a-f]{64}) [!-~]{1,64}")
_NAME = re.compile(r"[!-~]{1,64}")


class ApiKeys:
    """The keys of a file, one a line: SHA-256 in hexadecimal, a space, a name. Lines that begin with # do not count."""

    def __init__(self, hashes: tuple[bytes, ...]) -> None:
        self._hashes = hashes

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises `ConfigurationError` for a line that is no key, and for a file without any: it would let nobody in."""
        try:
            with path.open("rb") as file:
                lines = file.read(MAX_FILE_BYTES).decode("ascii", "replace").splitlines()
        except OSError as error:
            raise ConfigurationError(f"cannot read the API keys of {path}: {error.strerror}", code=_CODE) from error
        hashes = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            if not (match := _LINE.fullmatch(line.rstrip())):
                raise ConfigurationError(f"{path}, line {number}: not a SHA-256 and a name", code=_CODE)
            hashes.append(bytes.fromhex(match[1]))
        if not hashes:
            raise ConfigurationError(f"{path} holds no API key; make one: ephemeralml gateway key", code=_CODE)
        return cls(tuple(hashes))

    def admit(self, authorization: str) -> bool:
        """Whether an ``Authorization`` header has one of the keys, in a time that does not tell which or how nearly."""
        scheme, _, key = authorization.partition(" ")
        presented = sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
        found = [compare_digest(presented, known) for known in self._hashes]
        return scheme.lower() == "bearer" and any(found)


def make_key(path: Path, name: str) -> str:
    """A new key, whose hash is added to the file, made with mode 0600 if need be. Nobody can show the key again.

    Raises `ConfigurationError` for a name that will not do, OSError.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError("a key's name is 1 to 64 ASCII characters without spaces", code=_CODE)
    key = f"eml-{secrets.token_urlsafe(32)}"
    line = f"{sha256(key.encode()).hexdigest()} {name}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(line)
    return key
