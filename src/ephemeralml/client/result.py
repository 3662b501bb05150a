"""What an answered request gives its caller."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ephemeralml.receipts import Bundle, Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """Vectors and their proof.

    `vectors` is float32 (n, dimension) in the texts' order; `tokens` is what the model read; `receipt` is verified;
    `bundle` verifies offline. `request` and `response` are the exact bytes the receipt's hashes cover: they hold the
    texts, the vectors and the salts, and are what an auditor needs to tie a receipt to them.
    """

    vectors: NDArray[np.float32] = field(repr=False)
    tokens: int
    receipt: Receipt = field(repr=False)
    bundle: Bundle = field(repr=False)
    request: bytes = field(repr=False)
    response: bytes = field(repr=False)
