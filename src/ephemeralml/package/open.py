"""Opening a package: every byte authenticated, in order, complete and as the owner signed it, or nothing at all."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag

from ephemeralml.errors import PackageError
from ephemeralml.package.manifest import Artifact, Manifest
from ephemeralml.package.model import private_memory
from ephemeralml.package.source import ArtifactSource, Reader
from ephemeralml.package.stream import DEK_SIZE, HEADER_SIZE, TAG_SIZE, ArtifactCipher, make_header

Plaintext: TypeAlias = bytearray | mmap.mmap
"""One opened artifact. The pages of a large one can be given back one by one."""

_MAPPED_BYTES: Final = 1 << 20
_ZEROS = bytes(1 << 20)


def open_package(manifest: Manifest, *, source: ArtifactSource, dek: bytes) -> dict[str, Plaintext]:
    """Decrypt all artifacts of a verified manifest into memory, by name. Raises as `decrypt_artifact` does."""
    opened: dict[str, Plaintext] = {}
    try:
        for artifact in manifest.artifacts:
            with source.open(artifact.name) as read:
                opened[artifact.name] = decrypt_artifact(artifact, package_id=manifest.package_id, dek=dek, read=read)
    except BaseException:
        wipe(opened)
        raise
    return opened


def decrypt_artifact(artifact: Artifact, *, package_id: bytes, dek: bytes, read: Reader) -> Plaintext:
    """Decrypt one artifact of a verified manifest; holds its plaintext and one chunk in memory.

    `read` is asked for no more than the artifact's `ciphertext_size`, then once more for the end. The plaintext is
    returned only when all of it verified; on any failure it is overwritten with zeros.

    Raises `PackageError`: ``package.dek`` (not 32 bytes), ``artifact.truncated``, ``artifact.extended``,
    ``artifact.header`` (damaged, or of another package or artifact), ``artifact.authentication`` (a chunk is damaged,
    misplaced or sealed with another key) or ``artifact.digest`` (not the plaintext the owner signed).
    """
    if len(dek) != DEK_SIZE:
        raise PackageError(f"the package's key is not {DEK_SIZE} bytes", code="package.dek")
    cipher = ArtifactCipher(
        dek,
        package_id=package_id,
        name=artifact.name,
        salt=artifact.salt,
        size=artifact.size,
        chunk_size=artifact.chunk_size,
    )
    read_header(read, artifact, package_id=package_id)
    plaintext = bytearray(artifact.size) if artifact.size < _MAPPED_BYTES else private_memory(artifact.size)
    try:
        with memoryview(plaintext) as view:
            _decrypt_into(view, artifact, cipher, read)
    except BaseException:
        wipe({artifact.name: plaintext})
        raise
    return plaintext


def read_header(read: Reader, artifact: Artifact, *, package_id: bytes) -> bytes:
    """The file's header, equal to the manifest's. Raises `PackageError` (``artifact.header``, ``.truncated``)."""
    header = bytearray(HEADER_SIZE)
    read_exactly(read, memoryview(header), artifact)
    if header != make_header(package_id=package_id, salt=artifact.salt, chunk_size=artifact.chunk_size):
        _refuse(artifact, "header", "its header is not the manifest's: damaged, or of another package or artifact")
    return bytes(header)


def read_exactly(read: Reader, into: memoryview, artifact: Artifact) -> None:
    """Fill `into`. Raises `PackageError` (``artifact.truncated``, ``.extended``)."""
    filled = 0
    while filled < len(into):
        piece = read(len(into) - filled)
        if len(piece) == 0:
            _refuse(artifact, "truncated", "it ends too early")
        if len(piece) > len(into) - filled:
            _refuse(artifact, "extended", "its source gave more than it was asked for")
        into[filled : filled + len(piece)] = piece
        filled += len(piece)


def check_end(read: Reader, artifact: Artifact) -> None:
    """Raises `PackageError` (``artifact.extended``) when something follows."""
    if len(read(1)) != 0:
        _refuse(artifact, "extended", "there are bytes after its end")


def wipe(buffers: Mapping[str, Plaintext]) -> None:
    """Overwrite every buffer with zeros, in place."""
    for buffer in buffers.values():
        with memoryview(buffer) as view:
            for start in range(0, len(view), len(_ZEROS)):
                end = min(start + len(_ZEROS), len(view))
                view[start:end] = _ZEROS[: end - start]


def _decrypt_into(plaintext: memoryview, artifact: Artifact, cipher: ArtifactCipher, read: Reader) -> None:
    sealed = memoryview(bytearray(min(artifact.size, artifact.chunk_size) + TAG_SIZE))
    digest = hashlib.sha256()
    start = 0
    # Hashing takes as long as all the rest, and neither holds the interpreter's lock.
    with ThreadPoolExecutor(1) as hashing:
        for index in range(cipher.chunks):
            length = cipher.plaintext_length(index)
            read_exactly(read, sealed[: length + TAG_SIZE], artifact)
            chunk = plaintext[start : start + length]
            try:
                cipher.open_into(index, sealed[: length + TAG_SIZE], chunk)
            except InvalidTag:
                _refuse(artifact, "authentication", f"chunk {index} is damaged, misplaced or sealed with another key")
            hashing.submit(digest.update, chunk)
            start += length
    check_end(read, artifact)
    if digest.digest() != artifact.sha256:
        _refuse(artifact, "digest", "it is not the content the owner signed")


def _refuse(artifact: Artifact, code: str, why: str) -> NoReturn:
    raise PackageError(f"the artifact {artifact.name} was refused: {why}", code=f"artifact.{code}")
