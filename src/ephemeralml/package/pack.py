"""Packing: a sentence-transformers folder becomes an encrypted, signed package, or nothing is left of the attempt."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.errors import ModelError, PackageError
from ephemeralml.package import stream
from ephemeralml.package.folder import check_free, sync, whole_folder
from ephemeralml.package.keys import DataKey, KeyProvider
from ephemeralml.package.manifest import (
    MAX_ARTIFACT_SIZE,
    Artifact,
    KeyRecord,
    Manifest,
    check_identity,
    encryption_context,
)
from ephemeralml.package.model import ModelSpec, check_model_folder
from ephemeralml.package.source import ARTIFACT_SUFFIX, MANIFEST_FILE

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the plaintext bytes done and their total, first with 0 done."""

REQUIRED_FILES: Final = {
    "model.safetensors": "save the model with safetensors weights in one file (`model.save_pretrained(folder)`)",
    "config.json": "give the folder `model.save_pretrained(folder)` wrote, not a part of it",
    "tokenizer.json": "save the fast tokenizer (`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`)",
}
OPTIONAL_FILES: Final = (
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def pack(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    owner_key: Ed25519PrivateKey,
    version: int,
    keys: KeyProvider,
    spec: ModelSpec,
    model_id: str,
    license: str = "unknown",  # noqa: A002
    progress: Progress | None = None,
    replaced: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Encrypt the model in `folder` into the new folder `out` under a fresh DEK, and sign its manifest.

    `replaced`: contents to pack in place of files of the folder, such as weights converted to the spec's precision.
    Memory stays at a few chunks. The DEK is asked for after the inputs were checked. `out` appears whole or not at all.

    Raises ValueError for a replaced file that no package has, `ModelError` (``model.missing``, ``model.not_a_file``,
    ``model.changed`` while it was read), `PackageError` (``package.exists``, ``.no_space``, ``.io``, ``.too_large``,
    ``.dek``, ``manifest.malformed``) and what `keys` does.
    """
    source, target = Path(folder), Path(out)
    check_free(target)
    check_identity(model_id=model_id, version=version, license=license)
    if replaced and not replaced.keys() <= {*REQUIRED_FILES, *OPTIONAL_FILES}:
        raise ValueError("what is replaced is no file of a package")
    check_model_folder(source)
    inputs = _find_inputs(source, replaced or {})

    package_id = secrets.token_bytes(stream.PACKAGE_ID_SIZE)
    context = encryption_context(package_id, model_id)
    data_key = keys.generate_data_key(context)
    if len(data_key.plaintext) != stream.DEK_SIZE:
        raise PackageError("the key provider did not give a 32-byte key", code="package.dek")
    record = KeyRecord(
        provider=data_key.provider,
        key_arn=data_key.key_arn,
        encryption_context=context,
        wrapped_dek=data_key.wrapped,
    )

    with whole_folder(target) as work:
        meter = _Meter(sum(item.size for item in inputs), progress)
        artifacts = tuple(_encrypt(item, work, package_id, data_key, meter) for item in inputs)
        manifest = Manifest(
            package_id=package_id,
            model_id=model_id,
            version=version,
            spec=spec,
            created_at=int(time.time()),
            license=license,
            owner=owner_key.public_key().public_bytes_raw(),
            artifacts=artifacts,
            key=record,
        )
        with (work / MANIFEST_FILE).open("xb") as file:
            file.write(manifest.sign(owner_key))
            sync(file)
    return manifest


@dataclass(frozen=True, slots=True)
class _Input:
    """A regular file of the model, and its status when the inputs were checked; or the content packed in its place."""

    name: str
    path: Path
    status: os.stat_result
    content: bytes | None

    @property
    def size(self) -> int:
        return self.status.st_size if self.content is None else len(self.content)

    def open(self) -> io.BufferedReader | io.BytesIO:
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)


class _Meter:
    """Adds up what was done for the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done = 0
        self._total = total
        self._progress = progress
        self.add(0)

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


def _find_inputs(folder: Path, replaced: Mapping[str, bytes]) -> list[_Input]:
    inputs = []
    for name in (*REQUIRED_FILES, *OPTIONAL_FILES):
        path = folder / name
        # A dangling link is an incomplete download, not an absent file.
        if name in OPTIONAL_FILES and not os.path.lexists(path):
            continue
        try:
            status = path.stat()
        except OSError as error:
            hint = REQUIRED_FILES.get(name, "download the model again")
            raise ModelError(f"cannot read {path} ({error.strerror}): {hint}", code="model.missing") from None
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a regular file", code="model.not_a_file")
        item = _Input(name, path, status, replaced.get(name))
        if item.size > MAX_ARTIFACT_SIZE:
            raise PackageError(f"{path} is larger than {MAX_ARTIFACT_SIZE} bytes", code="package.too_large")
        inputs.append(item)
    return inputs


def _encrypt(item: _Input, work: Path, package_id: bytes, data_key: DataKey, meter: _Meter) -> Artifact:
    size = item.size
    salt = secrets.token_bytes(stream.SALT_SIZE)
    cipher = stream.ArtifactCipher(
        data_key.plaintext,
        package_id=package_id,
        name=item.name,
        salt=salt,
        size=size,
        chunk_size=stream.CHUNK_SIZE,
    )
    digest = hashlib.sha256()
    plaintext = memoryview(bytearray(stream.CHUNK_SIZE))
    sealed = memoryview(bytearray(stream.CHUNK_SIZE + stream.TAG_SIZE))
    target = work / (item.name + ARTIFACT_SUFFIX)
    target.parent.mkdir(exist_ok=True)
    with item.open() as reader, target.open("xb") as writer:
        writer.write(cipher.header)
        for index in range(cipher.chunks):
            length = cipher.plaintext_length(index)
            chunk, box = plaintext[:length], sealed[: length + stream.TAG_SIZE]
            if reader.readinto(chunk) != length:
                raise _changed(item)
            digest.update(chunk)
            cipher.seal_into(index, chunk, box)
            writer.write(box)
            meter.add(length)
        if item.content is None:
            _check_unchanged(item, reader)
        sync(writer)
    return Artifact(
        name=item.name,
        size=size,
        ciphertext_size=stream.ciphertext_size(size, stream.CHUNK_SIZE),
        sha256=digest.digest(),
        salt=salt,
        chunk_size=stream.CHUNK_SIZE,
    )


def _check_unchanged(item: _Input, reader: BinaryIO) -> None:
    now, then = os.fstat(reader.fileno()), item.status
    if any(getattr(now, name) != getattr(then, name) for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns")):
        raise _changed(item)


def _changed(item: _Input) -> ModelError:
    return ModelError(f"{item.path} changed while it was being packed; pack it again", code="model.changed")
