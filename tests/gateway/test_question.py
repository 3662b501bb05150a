"""A body becomes a question or a refusal, whatever it is, and what it said is in no refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.gateway import openai_api, tei_api
from ephemeralml.gateway.problem import RefusedError, problem_of
from ephemeralml.gateway.question import Question

Read = Callable[[bytes], Question]

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = ["model", "input", "inputs", "encoding_format", "dimensions", "user", "normalize", "truncate"]
readers = pytest.mark.parametrize("read", [openai_api.read, tei_api.read])


@readers
@given(body=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(read: Read, body: bytes) -> None:
    try:
        read(body)
    except RefusedError as error:
        problem = problem_of(error)
    else:
        return
    assert problem.status == 400


@readers
@given(fields=st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_fields_of_any_kind_are_read_or_refused(read: Read, fields: dict[str, Any]) -> None:
    try:
        question = read(json.dumps(fields).encode())
    except RefusedError:
        return
    wanted = fields["input" if read is openai_api.read else "inputs"]
    assert question.texts == ((wanted,) if isinstance(wanted, str) else tuple(wanted))


@readers
def test_a_body_nested_without_end_is_refused(read: Read) -> None:
    with pytest.raises(RefusedError) as caught:
        read(b"[" * 1_000_000)
    assert caught.value.code == "request.json"


def openai(**fields: object) -> Question:
    return openai_api.read(json.dumps({"model": "m", "input": "t", **fields}).encode())


def tei(**fields: object) -> Question:
    return tei_api.read(json.dumps({"inputs": "t", **fields}).encode())


def test_what_openai_leaves_open() -> None:
    assert openai() == Question(texts=("t",), model="m")
    assert openai(encoding_format=None, dimensions=None, user=None) == openai()
    assert openai(encoding_format="base64").base64
    assert openai(dimensions=7).dimensions == 7


def test_what_tei_leaves_open() -> None:
    assert tei() == Question(texts=("t",), normalize=True)
    assert tei(truncate=True, truncation_direction="Right", normalize=None) == tei()
    assert not tei(normalize=False).normalize


@pytest.mark.parametrize(
    ("ask", "fields", "code"),
    [
        (openai, {"model": None}, "request.model"),
        (openai, {"dimensions": True}, "request.dimensions"),
        (openai, {"dimensions": 1.5}, "request.dimensions"),
        (openai, {"user": 7}, "request.user"),
        (openai, {"encoding_format": ["float"]}, "request.encoding_format"),
        (openai, {"input": None}, "request.type"),
        (openai, {"input": ["a", None]}, "request.type"),
        (openai, {"input": [1, "a"]}, "request.type"),
        (openai, {"input_type": "query"}, "request.field"),
        (tei, {"inputs": [[["pair"]]]}, "request.tokens"),
        (tei, {"normalize": 1}, "request.normalize"),
        (tei, {"truncation_direction": "Left"}, "request.truncation_direction"),
        (tei, {"prompt_name": "query"}, "request.field"),
    ],
)
def test_what_would_be_passed_over_is_refused(ask: Callable[..., Question], fields: dict[str, Any], code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        ask(**fields)
    assert caught.value.code == code


def test_a_question_shows_no_text() -> None:
    assert "secret" not in repr(openai(input="secret"))
