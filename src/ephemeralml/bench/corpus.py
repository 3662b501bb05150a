"""A long list of texts through `ephemeralml embed`'s own code, beside the engine alone in its best batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from ephemeralml.bench import machine, texts
from ephemeralml.bench.deployment import Deployment
from ephemeralml.bench.load import check_vectors
from ephemeralml.bench.ours import Ours
from ephemeralml.bench.record import record
from ephemeralml.bench.timing import interleave
from ephemeralml.client.corpus import embed_corpus

TEXTS: Final = 3000
ROUNDS: Final = 7


def compare(model: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Texts a second of both, and the ratio, round by round.

    The ceiling is one `Encoder.encode` of all the texts in this process: it knows every text's tokens, so its batches
    are of texts of a length. The other is `embed_corpus`: sealed requests through relay and enclave, each receipt
    verified, journal, vectors and bundles written. Both have the same two CPUs, one after the other.
    """
    with machine.two_cpus():
        started, about, before = datetime.now(UTC), machine.describe(), machine.busy()
        ours = Ours.load(model)
        encoder = ours.fp32
        lines = texts.mixed_texts(ours.count, number=TEXTS)
        with tempfile.TemporaryDirectory(prefix="ephemeralml-") as folder, ExitStack() as stack:
            out, receipts = Path(folder) / "vectors.npy", Path(folder) / "proof.aer"
            deployment = stack.enter_context(Deployment(Path(folder), model))
            served = stack.enter_context(deployment.serve())
            client = stack.enter_context(served.client())
            calls: dict[str, Callable[[], object]] = {
                "ceiling_texts_per_second": lambda: encoder.encode(lines),
                "embed_texts_per_second": lambda: embed_corpus(client, lines, out, receipts=receipts),
            }
            embed_corpus(client, lines, out, receipts=receipts)
            check_vectors(np.load(out), encoder.encode(lines))
            say(f"{ROUNDS} rounds of {TEXTS:,} texts, some 15 s each")
            spent = interleave(calls, rounds=ROUNDS, warmups=0, lead=0, settle=0)
        samples = {name: [len(lines) / ms * 1000 for ms in values] for name, values in spent.items()}
        pairs = zip(samples["embed_texts_per_second"], samples["ceiling_texts_per_second"], strict=True)
        samples["share_of_ceiling"] = [embedded / ceiling for embedded, ceiling in pairs]
        return record(samples, started=started, about=about, neighbours=(before, machine.busy()))
