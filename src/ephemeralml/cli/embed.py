"""The data owner's command: embed texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ephemeralml.attestation import Policy
from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.client import Client
from ephemeralml.client.corpus import PER_REQUEST, check_format, embed_corpus, write_lines
from ephemeralml.errors import RequestError
from ephemeralml.files import whole_file

_SHOWN = 6


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, lines of --file.")] = None,
    *,
    policy: Annotated[Path, typer.Option(help="What to trust: a policy's file.")],
    address: Annotated[str, typer.Option(help="The host's relay.")] = "tcp://127.0.0.1:7001",
    file: Annotated[Path | None, typer.Option(help="One text a line; - for standard input.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="NAME.npy, .jsonl or .parquet; without it: JSON lines, cut short at a terminal."),
    ] = None,
    receipt: Annotated[Path | None, typer.Option(help="NAME.aer: the bundle of each request, 128 texts each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Embed texts in a verified enclave. With --out, the same command goes on where it was interrupted.

    Example: ephemeralml embed "a text" "another" --policy policy.json --out vectors.npy --receipt proof.aer

    A corpus: ephemeralml embed --file lines.txt --policy policy.json --out vectors.npy --receipt proof.aer
    """
    if bool(texts) == (file is not None):
        raise typer.BadParameter("give texts or --file, and not both")
    if as_json and out is None:
        raise typer.BadParameter("--json goes with --out: without it a file or a pipe gets JSON lines already")
    if out is not None:
        check_format(out)
    wanted = list(texts) if texts else _lines(file)
    with Client(address, policy=Policy.load(policy)) as client:
        print(client.verdict, file=sys.stderr)
        if out is None:
            _print(client, wanted, receipt)
        else:
            before = embed_corpus(client, wanted, out, receipts=receipt)
            if before:
                print(f"went on after {before} texts that were answered before", file=sys.stderr)
            if as_json:
                _print_summary(client, texts=len(wanted), before=before, out=out, receipt=receipt)


def _print_summary(client: Client, *, texts: int, before: int, out: Path, receipt: Path | None) -> None:
    print_json(
        {
            "vectors": str(out),
            "receipts": None if receipt is None else str(receipt),
            "texts": texts,
            "answered_before": before,
            "dimension": client.manifest.spec.dimension,
            "model_digest": client.manifest.digest.hex(),
            "confidential": client.verdict.confidential,
        }
    )


def _print(client: Client, texts: Sequence[str], receipt: Path | None) -> None:
    # Whoever reads hundreds of numbers a text is no person.
    person = sys.stdout.isatty()
    with nullcontext() if receipt is None else whole_file(receipt) as bundles:
        start = 0
        for result in client.embed_iter(texts, batch_size=PER_REQUEST):
            if person:
                _show(result.vectors, first=start + 1)
            else:
                write_lines(sys.stdout.buffer, texts[start : start + len(result.vectors)], result.vectors)
            start += len(result.vectors)
            if bundles is not None:
                bundles.write(result.bundle.to_bytes())
    if person:
        print("all of the numbers: --out NAME.npy, .jsonl or .parquet, or into a file or a pipe", file=sys.stderr)


def _show(vectors: NDArray[np.float32], *, first: int) -> None:
    for number, vector in enumerate(vectors, first):
        begins = " ".join(f"{value:7.4f}" for value in vector[:_SHOWN])
        print(f"text {number}: {len(vector)} numbers, {begins} …")


def _lines(file: Path | None) -> list[str]:
    try:
        content = sys.stdin.read() if str(file) == "-" else Path(str(file)).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 text: {error.reason}", code="request.text") from error
    # At line breaks alone: a text may hold what else `splitlines` takes for one.
    return content.removesuffix("\n").split("\n") if content else []
