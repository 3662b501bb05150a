from __future__ import annotations

import concurrent.futures
import gc
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from ephemeralml.errors import BusyError, EphemeralMLError, RequestError
from ephemeralml.inference import Batcher, Encoder
from ephemeralml.inference.batcher import MAX_TEXT_CHARACTERS
from ephemeralml.inference.encoder import TOKENS_PER_RUN
from ephemeralml.package.model import ModelSpec

PATIENCE = 30.0


class StubEngine:
    """Each vector is (first id, number of ids); `gate` holds a call back, `calls` records every batch's first ids."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.poison: int | None = None

    def run(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        self.calls.append(ids[:, 0].tolist())
        self.started.set()
        assert self.gate.wait(PATIENCE)
        if self.poison in ids[:, 0]:
            raise ValueError("secret")
        return np.stack([ids[:, 0], mask.sum(1)], axis=1).astype(np.float32)


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """A text is "id" or "id*count"; "untokenizable" is not."""
    parts = [text.partition("*") for text in texts]
    return [[int(first)] * int(count or 1) for first, _, count in parts]


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def encoder(engine: StubEngine) -> Encoder:
    spec = ModelSpec(architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=512, dimension=2)
    return Encoder(spec=spec, tokenizer=cast("Any", tokenize), engine=cast("Any", engine))


@pytest.fixture
def batcher(encoder: Encoder, engine: StubEngine) -> Iterator[Batcher]:
    with Batcher(encoder, max_texts=80_000, max_characters=400_000) as batcher:
        yield batcher
        engine.gate.set()


def hold(batcher: Batcher, engine: StubEngine) -> concurrent.futures.Future[Any]:
    """Keep the engine busy with one request until its gate opens."""
    engine.gate.clear()
    engine.started.clear()
    future = batcher.submit(["7"])
    assert engine.started.wait(PATIENCE)
    return future


def test_answers_in_order_with_tokens_and_time(batcher: Batcher) -> None:
    embedded = batcher.submit(["5*3", "1", "9*2"]).result(PATIENCE)
    assert embedded.vectors.tolist() == [[5, 3], [1, 1], [9, 2]]
    assert embedded.vectors.dtype == np.float32
    assert embedded.tokens == 6
    assert embedded.execution_ms > 0


def test_an_empty_request_is_answered_at_once(batcher: Batcher, engine: StubEngine) -> None:
    embedded = batcher.submit([]).result(0)
    assert embedded.vectors.shape == (0, 2)
    assert (embedded.tokens, embedded.execution_ms, engine.calls) == (0, 0.0, [])


def test_waiting_requests_share_one_engine_call(batcher: Batcher, engine: StubEngine) -> None:
    first = hold(batcher, engine)
    futures = [batcher.submit([str(index)]) for index in range(20)]
    engine.gate.set()
    for index, future in enumerate(futures):
        assert future.result(PATIENCE).vectors.tolist() == [[index, 1]]
    assert first.result(PATIENCE).tokens == 1
    assert engine.calls == [[7], list(range(20))]


def test_lengths_that_differ_much_are_not_padded_to_each_other(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    futures = [batcher.submit([text]) for text in ("1*200", "2", "3*190", "4*2")]
    engine.gate.set()
    concurrent.futures.wait(futures, PATIENCE)
    assert engine.calls[1:] == [[2, 4], [3, 1]]


def test_a_large_request_does_not_starve_a_short_one(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    large = batcher.submit(["3*128"] * 10_000)
    short = batcher.submit(["4"])
    calls_at_answer: list[int] = []
    short.add_done_callback(lambda _: calls_at_answer.append(len(engine.calls)))
    engine.gate.set()
    short.result(PATIENCE)
    assert large.result(PATIENCE).tokens == 1_280_000
    assert calls_at_answer[0] == 2
    assert len(engine.calls) == pytest.approx(10_000 * 128 / TOKENS_PER_RUN, rel=0.2)


def test_large_requests_are_served_in_turn(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    futures = [batcher.submit([f"{index}*512"] * 4) for index in range(3)]
    engine.gate.set()
    concurrent.futures.wait(futures, PATIENCE)
    assert [first for call in engine.calls[1:] for first in call] == [0, 1, 2] * 4


def test_a_full_queue_says_busy_and_recovers(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    waiting = [batcher.submit(["1"] * 20_000, session=number) for number in range(3)]
    waiting += [batcher.submit(["1"] * 19_000, session=3), batcher.submit(["1*" + "0" * 90_000], session=4)]
    waiting += [batcher.submit(["1*" + "0" * 90_000], session=number) for number in (5, 6)]
    for texts in (["1"] * 1000, ["1*" + "0" * 90_000]):
        with pytest.raises(BusyError) as caught:
            batcher.submit(texts, session=7)
        assert caught.value.code == "busy.queue"
    for future in waiting[4:]:
        future.cancel()
    engine.gate.set()
    concurrent.futures.wait(waiting, PATIENCE)
    assert batcher.submit(["1"] * 20_000).result(PATIENCE).tokens == 20_000


def test_one_session_cannot_fill_the_queue(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    greedy = [batcher.submit(["1"] * 10_000, session="greedy") for _ in range(2)]
    with pytest.raises(BusyError) as caught:
        batcher.submit(["1"], session="greedy")
    assert caught.value.code == "busy.queue"
    modest = batcher.submit(["2"], session="modest")
    engine.gate.set()
    assert modest.result(PATIENCE).tokens == 1
    assert [future.result(PATIENCE).tokens for future in greedy] == [10_000] * 2


def test_what_was_cancelled_takes_no_place(batcher: Batcher, engine: StubEngine) -> None:
    """Else a client that leaves and comes back fills the queue with requests of nobody."""
    hold(batcher, engine)
    for number in range(20):
        assert batcher.submit(["1"] * 20_000, session=number).cancel()
    assert (batcher._waiting.texts, batcher._waiting.characters, len(batcher._sessions)) == (0, 0, 0)
    honest = batcher.submit(["2"], session="honest")
    engine.gate.set()
    assert honest.result(PATIENCE).tokens == 1


def test_texts_that_are_dear_to_tokenize_do_not_hold_up_a_request_of_many(
    batcher: Batcher, encoder: Encoder, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word of 87,000 characters is 100 ms of tokenizing for two tokens; here 20 ms stand for that."""
    dear: list[str] = []

    def tokenize_slowly(texts: Sequence[str]) -> list[list[int]]:
        if texts[0].startswith("x"):
            dear.extend(texts)
            time.sleep(0.02)
        return [[1] for _ in texts]

    hold(batcher, engine)
    monkeypatch.setattr(encoder, "tokenize", tokenize_slowly)
    hostile = [batcher.submit(["x"] * 100, session=number) for number in range(2)]
    honest = batcher.submit(["1"] * 300, session="honest")
    tokenized: list[int] = []
    honest.add_done_callback(lambda _: tokenized.append(len(dear)))
    engine.gate.set()
    assert honest.result(PATIENCE).tokens == 300
    # Text by text in turn it would be all two hundred.
    assert tokenized[0] < 20
    for future in hostile:
        future.cancel()


def test_a_session_of_many_requests_takes_no_more_turns_than_another(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    greedy = [batcher.submit(["1*256"], session="greedy") for _ in range(50)]
    modest = batcher.submit(["2*256"] * 2, session="modest")
    engine.gate.set()
    concurrent.futures.wait([*greedy, modest], PATIENCE)
    assert engine.calls[1:4] == [[1, 2], [1, 2], [1, 1]]


def test_dear_texts_one_by_one_get_no_more_than_cheap_ones_in_a_row(batcher: Batcher, engine: StubEngine) -> None:
    """Its next text is there as soon as the one before is answered."""
    hold(batcher, engine)
    honest = [batcher.submit(["1*8"] * 256, session=number) for number in range(8)]
    dear = 0

    def again(_: object) -> None:
        nonlocal dear
        if not all(future.done() for future in honest):
            dear += 1
            batcher.submit(["2*512"], session="hostile").add_done_callback(again)

    again(None)
    engine.gate.set()
    assert [future.result(PATIENCE).tokens for future in honest] == [2048] * 8
    # Four are as many tokens; with its debts forgotten, it had one at each turn: 32.
    assert 3 <= dear <= 6


def test_what_the_machine_delayed_shuts_no_session_out(
    batcher: Batcher, encoder: Encoder, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause of 0.3 s while one text is tokenized would cost as much as 60,000 tokens, several times what waits."""

    def pause(texts: Sequence[str]) -> list[list[int]]:
        if texts == ["0"]:
            time.sleep(0.3)
        return tokenize(texts)

    hold(batcher, engine)
    monkeypatch.setattr(encoder, "tokenize", pause)
    monkeypatch.setattr("ephemeralml.inference.batcher._SECONDS_PER_TOKEN", 5e-6)
    other = batcher.submit(["1*8"] * 1300, session="other")
    delayed = batcher.submit(["0", "0*2"], session="delayed")
    # Counted by the worker itself, which goes on before this thread is awake.
    calls: list[int] = []
    delayed.add_done_callback(lambda _: calls.append(len(engine.calls)))
    engine.gate.set()
    assert delayed.result(PATIENCE).tokens == 3
    concurrent.futures.wait([other], PATIENCE)
    # With a debt without bound: in the last call or the last but one.
    assert calls[0] <= 0.7 * len(engine.calls)


def test_debts_end_with_the_queue(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    indebted = [batcher.submit(["1*512"], session=number) for number in range(20)]
    engine.gate.set()
    concurrent.futures.wait(indebted, PATIENCE)
    batcher.submit(["1"]).result(PATIENCE)
    batcher.close()
    assert not batcher._sessions


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["1"] * 20_001, "request.size"),
        (["1" * 60_000] * 2, "request.size"),
        (["1" * (MAX_TEXT_CHARACTERS + 1)], "request.text_size"),
        ("1", "request.type"),
        ([1], "request.type"),
        (["\ud800"], "request.unicode"),
    ],
)
def test_requests_that_can_never_be_served(batcher: Batcher, texts: Any, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        batcher.submit(texts)
    assert caught.value.code == code


def test_a_cancelled_request_is_skipped_and_its_waiters_told(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    cancelled, other = batcher.submit(["1"]), batcher.submit(["2"])
    assert cancelled.cancel()
    engine.gate.set()
    assert other.result(PATIENCE).tokens == 1
    assert cancelled in concurrent.futures.wait([cancelled], PATIENCE).done
    assert engine.calls == [[7], [2]]


def test_a_request_cancelled_while_it_runs_stops(batcher: Batcher, engine: StubEngine) -> None:
    engine.gate.clear()
    large = batcher.submit(["1*512"] * 5_000)
    assert engine.started.wait(PATIENCE)
    assert large.cancel()
    engine.gate.set()
    assert batcher.submit(["2"]).result(PATIENCE).tokens == 1
    assert len(engine.calls) < 5


def test_a_failing_batch_fails_only_its_requests(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    engine.poison = 13
    bad, partner = batcher.submit(["13"] + ["1*100"] * 50), batcher.submit(["2"])
    other = batcher.submit(["3*300"])
    engine.gate.set()
    for future in (bad, partner):
        with pytest.raises(EphemeralMLError) as caught:
            future.result(PATIENCE)
        assert caught.value.code == "inference.engine"
        assert "secret" not in str(caught.value)
    assert other.result(PATIENCE).tokens == 300
    assert batcher.submit(["4"]).result(PATIENCE).tokens == 1


def test_a_text_that_cannot_be_tokenized_fails_only_its_request(batcher: Batcher, engine: StubEngine) -> None:
    hold(batcher, engine)
    bad, other = batcher.submit(["1", "untokenizable", "1"]), batcher.submit(["2"])
    engine.gate.set()
    with pytest.raises(EphemeralMLError):
        bad.result(PATIENCE)
    assert other.result(PATIENCE).tokens == 1


def test_a_panic_in_the_tokenizer_or_the_engine_does_not_stop_the_worker(
    batcher: Batcher, encoder: Encoder, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """What a panic in Rust arrives as: no Exception."""

    def panic(*_: object) -> None:
        raise Panic

    for owner, name in ((encoder, "tokenize"), (encoder, "run")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, panic)
            with pytest.raises(EphemeralMLError) as caught:
                batcher.submit(["1"]).result(PATIENCE)
            assert caught.value.code == "inference.engine"
        assert batcher.submit(["2"]).result(PATIENCE).tokens == 1


def test_close_fails_what_waits_and_refuses_more(batcher: Batcher, engine: StubEngine) -> None:
    running = hold(batcher, engine)
    waiting = batcher.submit(["1"])
    closer = threading.Thread(target=batcher.close)
    closer.start()
    while not batcher._closed:
        time.sleep(0.001)
    engine.gate.set()
    closer.join(PATIENCE)
    assert running.result(0).tokens == 1
    with pytest.raises(BusyError) as caught:
        waiting.result(0)
    assert caught.value.code == "busy.closed"
    with pytest.raises(BusyError):
        batcher.submit(["1"])
    batcher.close()


def test_many_threads(batcher: Batcher) -> None:
    def request(seed: int) -> None:
        for count in range(1, 20):
            texts = [f"{seed}*{1 + index * seed % 37}" for index in range(count)]
            expected = [[seed, 1 + index * seed % 37] for index in range(count)]
            assert batcher.submit(texts).result(PATIENCE).vectors.tolist() == expected

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(request, range(1, 33)))
    batcher.close()
    assert (batcher._waiting.texts, batcher._waiting.characters, len(batcher._sessions)) == (0, 0, 0)


def test_nothing_of_an_answered_request_waits_for_the_garbage_collector(batcher: Batcher) -> None:
    gc.collect()
    gc.disable()
    try:
        future = batcher.submit(["5*3"])
        gone = weakref.ref(future)
        assert future.result(PATIENCE).tokens == 3
        # The worker lets go of its last round when the next begins.
        assert batcher.submit(["1"]).result(PATIENCE).tokens == 1
        del future
        assert gone() is None
    finally:
        gc.enable()
