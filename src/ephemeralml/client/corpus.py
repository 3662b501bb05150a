"""A long list of texts into files of vectors and receipts, in a run that may be interrupted and gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from importlib.util import find_spec
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
_FORMATS: Final = (".npy", ".jsonl", ".parquet")


def check_format(out: Path) -> None:
    """Raises `ConfigurationError`: ``embed.format`` for a suffix that is not written, ``embed.pyarrow`` for .parquet
    where pyarrow is not installed.
    """
    if out.suffix not in _FORMATS:
        raise ConfigurationError(f"{out} must end in {' or '.join(_FORMATS)}", code="embed.format")
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigurationError(".parquet needs pyarrow: pip install 'ephemeralml[parquet]'", code="embed.pyarrow")


def embed_corpus(client: Client, texts: Sequence[str], out: Path, *, receipts: Path | None = None) -> int:
    """Write the vectors of `texts` to `out`, and each request's bundle to `receipts`.

    `out` ends in .npy, or in .jsonl or .parquet, which hold the texts too. What is answered is kept in ``<out>.part``
    until all is: a second call with the same texts goes on from there. Returns the number of texts that were answered
    before. Both files are written whole or not at all. Raises as `Client.embed` and, before anything is sent,
    `check_format`; `ConfigurationError` for a journal of another run or one in use; OSError; `SessionError`
    (``embed.model``) when the enclave's model changes on the way.
    """
    check_format(out)
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
        _write(journal, texts, manifest, out, receipts)
        journal.remove()
    return before


def _identity(texts: Sequence[str], manifest: Manifest, *, receipts: bool) -> bytes:
    digest = sha256(f"{PER_REQUEST} {receipts} ".encode() + manifest.digest)
    for text in texts:
        # Hashed by itself: where one text ends and the next begins counts too.
        digest.update(sha256(text.encode()).digest())
    return digest.digest()


def _write(journal: Journal, texts: Sequence[str], manifest: Manifest, out: Path, receipts: Path | None) -> None:
    shape = (len(texts), manifest.spec.dimension)
    answers = (
        (texts[index * PER_REQUEST : (index + 1) * PER_REQUEST], np.frombuffer(raw, "<f4").reshape(-1, shape[1]))
        for index, (raw, _) in enumerate(journal)
    )
    with ExitStack() as stack:
        file = stack.enter_context(whole_file(out))
        if out.suffix == ".npy":
            npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.writelines(vectors for vectors, _ in journal)
        elif out.suffix == ".jsonl":
            for part, vectors in answers:
                write_lines(file, part, vectors)
        else:
            from ephemeralml.client.parquet import write_parquet  # noqa: PLC0415 - most installations have no pyarrow

            write_parquet(file, answers, manifest)
        if receipts is not None:
            stack.enter_context(whole_file(receipts)).writelines(bundle for _, bundle in journal)


def write_lines(file: BinaryIO, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """JSON lines, a text and its vector in each."""
    pairs = zip(texts, vectors, strict=True)
    lines = (json.dumps({"text": text, "vector": vector.tolist()}, ensure_ascii=False) for text, vector in pairs)
    file.writelines(line.encode() + b"\n" for line in lines)
