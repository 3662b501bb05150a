"""Rewrapping: a package's DEK goes under another KMS key; the encrypted files stay, byte for byte, what they are."""

from __future__ import annotations

import dataclasses
import hmac
import os
import time
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.errors import PackageError
from ephemeralml.package import stream
from ephemeralml.package.folder import check_free, sync, whole_folder
from ephemeralml.package.manifest import Artifact, KeyRecord, Manifest
from ephemeralml.package.open import check_end, read_exactly, read_header
from ephemeralml.package.source import ARTIFACT_SUFFIX, MANIFEST_FILE, ArtifactSource, Reader

_PIECE_BYTES: Final = 1 << 20


class KeyRewrapper(Protocol):
    """Where `rewrap` gets a package's DEK wrapped anew."""

    def rewrap(self, record: KeyRecord) -> KeyRecord:
        """The same DEK under another key, bound to the same encryption context."""
        ...


def rewrap(
    source: ArtifactSource,
    out: str | os.PathLike[str],
    *,
    digest: bytes,
    owner_key: Ed25519PrivateKey,
    keys: KeyRewrapper,
    version: int | None = None,
) -> tuple[Manifest, Manifest]:
    """Copy the package `source` to the new folder `out` with its DEK under another key, and sign its new manifest.

    Returns the old manifest and the new one. `digest` is the old one's model digest, as its owner knows it: where the
    package is kept, an older one that the owner signed too may have been put in its place.
    The DEK is seen by nobody but the key service, and so nothing is decrypted: of each file, size and header are
    checked. The rest of the old manifest is kept, but for the creation time and the version. A version names one
    manifest, so that a floor of the new one shuts the old out: `version` is above the old one, by default the next.
    `out` appears whole or not at all.

    Raises `PackageError` for a manifest that is not by the owner of `owner_key` (``manifest.…``) or not the one meant
    (``package.digest``), for what `source` cannot give (``package.missing``, ``.unreadable``, ``artifact.truncated``,
    ``.extended``, ``.header``), for `version` (``package.version``, ``manifest.malformed``) and for `out`
    (``package.exists``, ``.no_space``, ``.io``); and what `keys` does.
    """
    target = Path(out)
    check_free(target)
    old = Manifest.verify(source.manifest(), owner=owner_key.public_key().public_bytes_raw())
    # It would get the owner's signature on a version above every floor.
    if not hmac.compare_digest(old.digest, digest):
        raise PackageError(
            f"the package has another model digest than the one to rewrap: it is version {old.version}, "
            f"{old.digest.hex()}; unless that is a slip, somebody replaced it",
            code="package.digest",
        )
    version = old.version + 1 if version is None else version
    if version <= old.version:
        raise PackageError(
            f"the package is version {old.version}; a rewrapped one needs a higher version, or no floor could tell the "
            "two apart",
            code="package.version",
        )
    # What cannot be signed is found before the key service is asked.
    new = dataclasses.replace(old, version=version, created_at=int(time.time()))
    new = dataclasses.replace(new, key=keys.rewrap(old.key))
    signed = new.sign(owner_key)
    with whole_folder(target) as work:
        for artifact in new.artifacts:
            path = work / (artifact.name + ARTIFACT_SUFFIX)
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open(artifact.name) as read, path.open("xb") as file:
                _copy(read, file, artifact, new.package_id)
                sync(file)
        with (work / MANIFEST_FILE).open("xb") as file:
            file.write(signed)
            sync(file)
    return old, new


def _copy(read: Reader, file: BinaryIO, artifact: Artifact, package_id: bytes) -> None:
    file.write(read_header(read, artifact, package_id=package_id))
    left = artifact.ciphertext_size - stream.HEADER_SIZE
    buffer = memoryview(bytearray(min(left, _PIECE_BYTES)))
    while left:
        piece = buffer[:left]
        read_exactly(read, piece, artifact)
        file.write(piece)
        left -= len(piece)
    check_end(read, artifact)
