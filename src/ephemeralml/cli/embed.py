"""The data owner's command: embed texts."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ephemeralml.attestation import Policy
from ephemeralml.client import Client, EmbedResult
from ephemeralml.errors import BusyError, RequestError
from ephemeralml.files import write_whole

# Texts in one request: many enough to fill the engine's batches, few enough for any enclave's limit.
_PER_REQUEST = 128
_BUSY_TRIES = 5


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, lines of --file.")] = None,
    *,
    policy: Annotated[Path, typer.Option(help="What to trust.")],
    address: Annotated[str, typer.Option(help="The host's relay.")] = "tcp://127.0.0.1:7001",
    file: Annotated[Path | None, typer.Option(help="One text a line; - for standard input.")] = None,
    out: Annotated[Path | None, typer.Option(help="Vectors to NAME.npy or NAME.jsonl; default: JSON lines.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="Bundle to NAME.aer; a second request's to NAME.2.aer.")] = None,
) -> None:
    """Embed texts in a verified enclave.

    Example: ephemeralml embed "a text" "another" --policy policy.json --out vectors.npy --receipt proof.aer
    """
    if bool(texts) == (file is not None):
        raise typer.BadParameter("give texts or --file, and not both")
    if out is not None and out.suffix not in {".npy", ".jsonl"}:
        raise typer.BadParameter("--out must end in .npy or .jsonl")
    wanted = list(texts) if texts else _lines(file)
    vectors: list[np.ndarray] = []
    with Client(address, policy=Policy.load(policy)) as client:
        print(client.verdict, file=sys.stderr)
        for number, start in enumerate(range(0, len(wanted), _PER_REQUEST), 1):
            result = _patiently(client, wanted[start : start + _PER_REQUEST])
            vectors.append(result.vectors)
            if receipt is not None:
                result.bundle.save(receipt if number == 1 else receipt.with_suffix(f".{number}{receipt.suffix}"))
    everything = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)
    if out is None:
        sys.stdout.writelines(_json_lines(wanted, everything))
    else:
        _save(out, wanted, everything)


def _save(out: Path, texts: list[str], vectors: np.ndarray) -> None:
    """Write the file, whole or not at all, replacing one that is there."""
    content = io.BytesIO()
    if out.suffix == ".npy":
        np.save(content, vectors)
    else:
        content.writelines(line.encode() for line in _json_lines(texts, vectors))
    write_whole(out, content.getbuffer())


def _lines(file: Path | None) -> list[str]:
    try:
        content = sys.stdin.read() if str(file) == "-" else Path(str(file)).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 text: {error.reason}", code="request.text") from error
    return content.splitlines()


def _patiently(client: Client, texts: list[str]) -> EmbedResult:
    for _ in range(_BUSY_TRIES):
        try:
            return client.embed(texts)
        except BusyError as busy:
            time.sleep(busy.retry_after)
    return client.embed(texts)


def _json_lines(texts: list[str], vectors: np.ndarray) -> Iterator[str]:
    for text, vector in zip(texts, vectors, strict=True):
        yield json.dumps({"text": text, "vector": vector.tolist()}, ensure_ascii=False) + "\n"
