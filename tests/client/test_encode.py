"""`encode` as sentence-transformers has it, and texts without end: in order, bounded, each answer with its receipt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.client import Client, EmbedResult, normalized
from ephemeralml.client.batches import UNDER_WAY, answers
from ephemeralml.errors import BusyError, ConfigurationError, RequestError, TransportError


def result_of(texts: tuple[str, ...]) -> EmbedResult:
    """A vector that tells its text."""
    vectors = np.array([[len(text), ord(text[:1] or "\0")] for text in texts], np.float32)
    empty: Any = None
    return EmbedResult(
        vectors=vectors, tokens=len(texts), verdict=empty, manifest=empty, receipt=empty, bundle=empty,
        request=b"", response=b"",
    )  # fmt: skip


@given(texts=st.lists(st.text(max_size=5), max_size=40), size=st.integers(1, 50))
def test_every_text_is_answered_once_and_in_order(texts: list[str], size: int) -> None:
    results = list(answers(result_of, iter(texts), batch_size=size))
    assert [len(result.vectors) for result in results] == [
        len(texts[at : at + size]) for at in range(0, len(texts), size)
    ]
    found = np.concatenate([result.vectors for result in results]) if results else np.empty((0, 2), np.float32)
    np.testing.assert_array_equal(found, result_of(tuple(texts)).vectors.reshape(-1, 2))


def test_no_more_is_read_than_is_under_way() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "text"

    results = answers(result_of, endless(), batch_size=10)
    for taken in range(1, 20):
        next(results)
        assert read <= 10 * (taken + UNDER_WAY)
    results.close()  # type: ignore[attr-defined]


def test_requests_are_under_way_together() -> None:
    together = threading.Barrier(UNDER_WAY, timeout=30)

    def embed(texts: tuple[str, ...]) -> EmbedResult:
        together.wait()
        return result_of(texts)

    assert len(list(answers(embed, ["text"] * 2 * UNDER_WAY, batch_size=1))) == 2 * UNDER_WAY


def test_a_busy_enclave_is_asked_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    busy = [BusyError("m", retry_after=0.25), BusyError("m", retry_after=0.5)]

    def embed(texts: tuple[str, ...]) -> EmbedResult:
        if busy:
            raise busy.pop(0)
        return result_of(texts)

    assert len(list(answers(embed, ["text"], batch_size=1))) == 1
    assert slept == [0.25, 0.5]

    def never(_: tuple[str, ...]) -> EmbedResult:
        raise BusyError("m", retry_after=1)

    with pytest.raises(BusyError):
        list(answers(never, ["text"], batch_size=1))
    assert len(slept) < 10


def test_an_error_comes_in_its_place_and_stops_the_rest() -> None:
    asked: list[str] = []

    def embed(texts: tuple[str, ...]) -> EmbedResult:
        asked.extend(texts)
        if texts == ("3",):
            raise TransportError("m", code="c")
        return result_of(texts)

    results = answers(embed, map(str, range(1000)), batch_size=1)
    assert [next(results).vectors[0][1] for _ in range(3)] == [ord("0"), ord("1"), ord("2")]
    with pytest.raises(TransportError):
        next(results)
    assert len(asked) <= 3 + 1 + UNDER_WAY


def test_rows_are_divided_by_their_length() -> None:
    rows = normalized(np.array([[3, 4], [0, 0], [1e-20, 0]], np.float32))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[0], [0.6, 0.8], rtol=1e-6)
    assert np.isfinite(rows).all()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """One whose answers are `result_of`'s: what reaches the enclave is tests/e2e's to see."""
    made = Client("tcp://127.0.0.1:1", policy=_policy())
    monkeypatch.setattr(made, "embed", result_of)
    return made


def _policy() -> Any:
    from ephemeralml.attestation import Policy  # noqa: PLC0415

    return Policy.insecure_any_measurement()


def test_shapes_are_sentence_transformers(client: Client) -> None:
    many = client.encode(["bb", "a"])
    assert many.shape == (2, 2)
    assert many.dtype == np.float32
    assert client.encode("bb").tolist() == many[0].tolist()
    listed = client.encode(["bb", "a"], convert_to_numpy=False)
    assert [row.tolist() for row in listed] == many.tolist()
    assert np.linalg.norm(client.encode(["bb"], normalize_embeddings=True)) == pytest.approx(1)
    assert client.encode(["bb", "a"], batch_size=1, show_progress_bar=True).tolist() == many.tolist()


@pytest.mark.parametrize("wrong", [{"a", "b"}, [1], b"bytes", None])
def test_what_is_no_list_of_texts_is_refused(client: Client, wrong: Any) -> None:
    with pytest.raises(RequestError):
        client.encode(wrong)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_batch_has_a_text_at_least(client: Client, size: Any) -> None:
    ways: list[Callable[[], object]] = [
        lambda: client.encode(["a"], batch_size=size),
        lambda: client.embed_iter(["a"], batch_size=size),
    ]
    for way in ways:
        with pytest.raises(ConfigurationError):
            way()


def test_texts_are_not_one_text(client: Client) -> None:
    with pytest.raises(RequestError):
        client.embed_iter("a text")


def test_a_client_of_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EPHEMERALML_RELAY", "EPHEMERALML_POLICY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="EPHEMERALML_RELAY"):
        Client.from_env()
    _policy().save(tmp_path / "policy.json")
    monkeypatch.setenv("EPHEMERALML_RELAY", "tcp://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="EPHEMERALML_POLICY"):
        Client.from_env()
    monkeypatch.setenv("EPHEMERALML_POLICY", str(tmp_path / "policy.json"))
    with pytest.raises(TransportError), Client.from_env(timeout=1):
        pass
