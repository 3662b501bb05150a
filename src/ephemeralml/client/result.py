"""What an answered request gives its caller."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ephemeralml.attestation import Verdict
from ephemeralml.package.manifest import Manifest
from ephemeralml.receipts import Bundle, Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """Vectors and their proof.

    `vectors` is float32 (n, dimension) in the texts' order; `tokens` is what the model read; `verdict` is what the
    session's evidence proved, and whether it is confidential at all; `manifest` is the signed one of the model that
    answered; `receipt` is verified; `bundle` verifies offline. `request` and `response` are the exact bytes the
    receipt's hashes cover: they hold the texts, the vectors and the salts, and are what an auditor needs to tie a
    receipt to them.
    """

    vectors: NDArray[np.float32] = field(repr=False)
    tokens: int
    verdict: Verdict = field(repr=False)
    manifest: Manifest = field(repr=False)
    receipt: Receipt = field(repr=False)
    bundle: Bundle = field(repr=False)
    request: bytes = field(repr=False)
    response: bytes = field(repr=False)

    @property
    def confidential(self) -> bool:
        """Whether a pinned, non-debug enclave on AWS hardware answered."""
        return self.verdict.confidential

    def __str__(self) -> str:
        count, dimension = self.vectors.shape
        return f"{count} vectors of {dimension}, {self.tokens} tokens; {self.verdict.summary}"
