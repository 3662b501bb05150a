"""A session that waits alone gets a round of many engine calls: less padding, and nobody waits for its end."""

from __future__ import annotations

import concurrent.futures
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from ephemeralml.errors import BusyError
from ephemeralml.inference import Batcher, Encoder
from ephemeralml.inference.encoder import TOKENS_PER_RUN
from ephemeralml.package.model import ModelSpec

PATIENCE = 30.0


class StubEngine:
    """Ends a call for each time that `step` is released; `calls` has their shapes."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.real = 0
        self.step = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)

    def run(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        self.arrived.release()
        assert self.step.acquire(timeout=PATIENCE)
        self.calls.append((ids.shape[0], ids.shape[1]))
        self.real += int(mask.sum())
        return np.stack([ids[:, 0]] * 2, axis=1).astype(np.float32)

    def go_on(self) -> None:
        """Without steps from here."""
        self.step.release(1_000_000)

    def one_more(self) -> None:
        """Let the call under way end, and wait for the next one."""
        self.step.release()
        assert self.arrived.acquire(timeout=PATIENCE)


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """A text is its number of tokens."""
    return [[1] * int(text) for text in texts]


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def batcher(engine: StubEngine) -> Iterator[Batcher]:
    spec = ModelSpec(architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=512, dimension=2)
    encoder = Encoder(spec=spec, tokenizer=cast("Any", tokenize), engine=cast("Any", engine))
    with Batcher(encoder) as batcher:
        yield batcher
        engine.go_on()


def hold(batcher: Batcher, engine: StubEngine) -> None:
    batcher.submit(["1"], session="first")
    assert engine.arrived.acquire(timeout=PATIENCE)


def mixed(number: int) -> list[str]:
    chooser = random.Random(1)
    return [str(chooser.randint(10, 120)) for _ in range(number)]


def test_mixed_texts_of_one_session_are_hardly_padded(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    futures = [batcher.submit(mixed(1000)[start : start + 125], session="bulk") for start in range(0, 1000, 125)]
    engine.go_on()
    concurrent.futures.wait(futures, PATIENCE)
    padded = sum(rows * length for rows, length in engine.calls)
    assert engine.real > 60_000
    # A call's own round: 38 % for these texts.
    assert padded < 1.1 * engine.real
    assert len(engine.calls) < 1.25 * engine.real / TOKENS_PER_RUN


def test_two_sessions_get_rounds_of_one_call(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    bulk = batcher.submit(["64"] * 800, session="bulk")
    single = batcher.submit(["65"], session="single")
    answered: list[int] = []
    single.add_done_callback(lambda _: answered.append(len(engine.calls)))
    engine.go_on()
    assert bulk.result(PATIENCE).tokens == 64 * 800
    assert answered[0] <= 3


@pytest.mark.parametrize("session", ["bulk", "other"])
def test_who_comes_in_the_middle_waits_for_the_call_under_way_alone(
    batcher: Batcher, engine: StubEngine, session: str
) -> None:
    hold(batcher, engine)
    bulk = batcher.submit(["64"] * 800, session="bulk")
    for _ in range(5):
        engine.one_more()
    late = batcher.submit(["64"], session=session)
    before = len(engine.calls)
    answered: list[int] = []
    late.add_done_callback(lambda _: answered.append(len(engine.calls)))
    engine.go_on()
    late.result(PATIENCE)
    bulk.result(PATIENCE)
    # The call under way, and its own round, which the bulk fills up: no more than two calls.
    assert answered[0] - before <= 3


def test_a_large_request_in_the_middle_gets_every_other_call(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    bulk = batcher.submit(["64"] * 800, session="bulk")
    for _ in range(3):
        engine.one_more()
    late = batcher.submit(["64"] * 40, session="other")
    before = len(engine.calls)
    answered: list[int] = []
    late.add_done_callback(lambda _: answered.append(len(engine.calls)))
    engine.go_on()
    late.result(PATIENCE)
    bulk.result(PATIENCE)
    # Five calls' worth of texts; rounds are overdrawn by a text, which is a call of its own.
    assert answered[0] - before <= 2 * (40 * 64 // TOKENS_PER_RUN) + 6


def test_closing_waits_for_the_call_under_way_alone(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    bulk = batcher.submit(["64"] * 800, session="bulk")
    engine.one_more()
    engine.one_more()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        time.sleep(0.001)
    calls = len(engine.calls)
    engine.go_on()
    with pytest.raises(BusyError) as refused:
        bulk.result(PATIENCE)
    assert refused.value.code == "busy.closed"
    closing.join(PATIENCE)
    assert len(engine.calls) == calls + 1


def test_a_request_cancelled_in_the_middle_costs_no_further_call(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    bulk = batcher.submit(["64"] * 120, session="bulk")
    engine.one_more()
    engine.one_more()
    assert bulk.cancel()
    calls = len(engine.calls)
    last = batcher.submit(["3"], session="other")
    engine.go_on()
    last.result(PATIENCE)
    # The call under way, and that of the last.
    assert len(engine.calls) == calls + 2
