"""A long list of texts into files of vectors and receipts, in a run that may be interrupted and gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ephemeralml.client.client import Client
from ephemeralml.client.journal import Journal
from ephemeralml.client.progress import progress_bar
from ephemeralml.errors import ConfigurationError, SessionError
from ephemeralml.files import whole_file
from ephemeralml.package.manifest import Manifest
from ephemeralml.texts import check_texts

PER_REQUEST: Final = 128
"""Texts in one request: many enough to fill the engine's batches, few enough for any enclave's limit."""
FORMATS: Final = (".npy", ".jsonl")


def embed_corpus(client: Client, texts: Sequence[str], out: Path, *, receipts: Path | None = None) -> int:
    """Write the vectors of `texts` to `out` (.npy, or .jsonl with the texts) and each request's bundle to `receipts`.

    What is answered is kept in ``<out>.part`` until all is: a second call with the same texts goes on from there.
    Returns the number of texts that were answered before. Both files are written whole or not at all. Raises as
    `Client.embed`; `ConfigurationError` for another suffix, a journal of another run or one in use; OSError;
    `SessionError` (``embed.model``) when the enclave's model changes on the way.
    """
    if out.suffix not in FORMATS:
        raise ConfigurationError(f"{out} must end in {' or '.join(FORMATS)}", code="embed.format")
    texts = check_texts(texts)
    manifest = client.manifest
    identity = _identity(texts, manifest, receipts=receipts is not None)
    with Journal(out.with_name(f"{out.name}.part"), identity=identity) as journal:
        before = min(journal.records * PER_REQUEST, len(texts))
        with progress_bar(len(texts), done=before) as advance:
            for result in client.embed_iter(texts[before:], batch_size=PER_REQUEST):
                if result.manifest.digest != manifest.digest:
                    raise SessionError(
                        "the enclave serves another model than when this run began; begin anew", code="embed.model"
                    )
                vectors = result.vectors.astype("<f4", copy=False).tobytes()
                journal.append(vectors, b"" if receipts is None else result.bundle.to_bytes())
                advance(len(result.vectors))
        _write(journal, texts, manifest.spec.dimension, out, receipts)
        journal.remove()
    return before


def _identity(texts: Sequence[str], manifest: Manifest, *, receipts: bool) -> bytes:
    digest = sha256(f"{PER_REQUEST} {receipts} ".encode() + manifest.digest)
    for text in texts:
        # Hashed by itself: where one text ends and the next begins counts too.
        digest.update(sha256(text.encode()).digest())
    return digest.digest()


def _write(journal: Journal, texts: Sequence[str], dimension: int, out: Path, receipts: Path | None) -> None:
    with ExitStack() as stack:
        vectors_file = stack.enter_context(whole_file(out))
        bundles = None if receipts is None else stack.enter_context(whole_file(receipts))
        if out.suffix == ".npy":
            head = {"descr": "<f4", "fortran_order": False, "shape": (len(texts), dimension)}
            npy.write_array_header_1_0(vectors_file, head)
        start = 0
        for raw, bundle in journal:
            if out.suffix == ".npy":
                vectors_file.write(raw)
            else:
                vectors = np.frombuffer(raw, "<f4").reshape(-1, dimension)
                write_lines(vectors_file, texts[start : start + len(vectors)], vectors)
                start += len(vectors)
            if bundles is not None:
                bundles.write(bundle)


def write_lines(file: BinaryIO, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """JSON lines, a text and its vector in each."""
    pairs = zip(texts, vectors, strict=True)
    lines = (json.dumps({"text": text, "vector": vector.tolist()}, ensure_ascii=False) for text, vector in pairs)
    file.writelines(line.encode() + b"\n" for line in lines)
