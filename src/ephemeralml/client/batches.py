"""More texts than one request holds: requests of a few under way at a time, answers in order, memory bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ephemeralml.client.result import EmbedResult
from ephemeralml.errors import BusyError

UNDER_WAY: Final = 4
"""Requests at a time: while one is computed the next is on its way in and the one before on its way out."""
_BUSY_TRIES = 5

Embed = Callable[[tuple[str, ...]], EmbedResult]


def answers(embed: Embed, texts: Iterable[str], *, batch_size: int) -> Iterator[EmbedResult]:
    """One answer for each `batch_size` texts, in order; `texts` is read no further ahead than is under way.

    A busy enclave is asked again after the time it names, a few times. Raises as `embed` and as `texts` do.
    """
    waiting: deque[Future[EmbedResult]] = deque()
    source = iter(texts)
    with ThreadPoolExecutor(UNDER_WAY, thread_name_prefix="ephemeralml-embed") as threads:
        try:
            while batch := tuple(islice(source, batch_size)):
                if len(waiting) == UNDER_WAY:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(_patiently, embed, batch))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _patiently(embed: Embed, texts: tuple[str, ...]) -> EmbedResult:
    for _ in range(_BUSY_TRIES):
        try:
            return embed(texts)
        except BusyError as busy:
            time.sleep(busy.retry_after)
    return embed(texts)


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row divided by its length, as torch does: a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return shortened
