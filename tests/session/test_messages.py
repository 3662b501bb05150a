from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from ephemeralml.codec import cbor
from ephemeralml.errors import SessionError
from ephemeralml.session.messages import EmbedRequest, EmbedResponse, Notice, Refusal, Request, Response

IDS = st.integers(0, 2**32 - 1)
NONCE, SALT, HASH = b"n" * 32, b"s" * 16, b"h" * 32
READERS: list[Callable[[bytes], object]] = [
    EmbedRequest.from_bytes,
    EmbedResponse.from_bytes,
    Request.from_bytes,
    Response.from_bytes,
    Refusal.from_bytes,
    Notice.from_bytes,
]
EMBED_REQUEST = {"texts": ["a"], "nonce": NONCE, "salt": SALT, "previous": None}
EMBED_RESPONSE = {"vectors": bytes(24), "count": 2, "dimension": 3, "tokens": 5, "salt": SALT}
REFUSAL = {"id": 1, "code": "busy", "message": "later", "retry_after_ms": 10}


@given(
    texts=st.lists(st.text(), max_size=5),
    nonce=st.binary(min_size=32, max_size=32),
    salt=st.binary(min_size=16, max_size=16),
    previous=st.none() | st.binary(min_size=32, max_size=32),
)
def test_embed_request(texts: list[str], nonce: bytes, salt: bytes, previous: bytes | None) -> None:
    request = EmbedRequest(tuple(texts), nonce, salt, previous)
    assert EmbedRequest.from_bytes(request.to_bytes()) == request


@given(
    vectors=numpy_strategies.arrays(
        np.float32, numpy_strategies.array_shapes(min_dims=2, max_dims=2, min_side=0), elements=st.floats(width=32)
    ),
    tokens=IDS,
)
def test_embed_response(vectors: np.ndarray, tokens: int) -> None:
    back = EmbedResponse.from_bytes(EmbedResponse(vectors, tokens, SALT).to_bytes())
    assert back.vectors.dtype == np.float32
    assert back.vectors.shape == vectors.shape
    assert back.vectors.tobytes() == vectors.tobytes()
    assert back.vectors.flags.writeable
    assert (back.tokens, back.salt) == (tokens, SALT)


def test_vectors_travel_row_by_row_in_little_endian_float32() -> None:
    vectors = np.array([[1.0, 2.0], [3.0, -1.0]], order="F", dtype=">f4")
    value: Any = cbor.decode(EmbedResponse(vectors, 1, SALT).to_bytes())
    assert value["vectors"] == bytes.fromhex("0000803f 00000040 00004040 000080bf")


@given(number=IDS, body=st.binary(max_size=100), receipt=st.binary(max_size=100))
def test_request_and_response(number: int, body: bytes, receipt: bytes) -> None:
    assert Request.from_bytes(Request(number, body).to_bytes()) == Request(number, body)
    response = Response(number, body, receipt)
    assert Response.from_bytes(response.to_bytes()) == response


@given(number=IDS, code=st.text(), message=st.text(), retry=st.none() | IDS)
def test_refusal(number: int, code: str, message: str, retry: int | None) -> None:
    refusal = Refusal(number, code, message, retry)
    assert Refusal.from_bytes(refusal.to_bytes()) == refusal


@given(code=st.text(), message=st.text())
def test_notice_is_cut_and_printable(code: str, message: str) -> None:
    notice = Notice.from_bytes(Notice(code, message).to_bytes())
    assert notice.code.isprintable()
    assert notice.message.isprintable()
    assert len(notice.code) == min(len(code), 64)
    assert len(notice.message) == min(len(message), 400)
    if code.isprintable() and len(code) <= 64:
        assert notice.code == code


def test_notice_carries_no_terminal_escapes() -> None:
    assert Notice.from_bytes(Notice("x\n", "\x1b[31mred\r\n").to_bytes()) == Notice("x?", "?[31mred??")


@pytest.mark.parametrize("read", READERS)
@given(data=st.data())
def test_any_bytes_are_a_session_error(read: Callable[[bytes], object], data: st.DataObject) -> None:
    with pytest.raises(SessionError) as caught:
        read(data.draw(st.binary(max_size=300)))
    assert caught.value.code == "message.malformed"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=33),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.data())
def test_any_values_under_the_right_keys_are_read_or_refused(data: st.DataObject) -> None:
    keys, read = data.draw(
        st.sampled_from(
            [
                (tuple(EMBED_REQUEST), EmbedRequest.from_bytes),
                (tuple(EMBED_RESPONSE), EmbedResponse.from_bytes),
                (("id", "body"), Request.from_bytes),
                (("id", "body", "receipt"), Response.from_bytes),
                (tuple(REFUSAL), Refusal.from_bytes),
                (("code", "message"), Notice.from_bytes),
            ]
        )
    )
    encoded = cbor.encode({key: data.draw(VALUES) for key in keys})
    try:
        read(encoded)
    except SessionError as error:
        assert error.code == "message.malformed"  # noqa: PT017


def refused(read: Callable[[bytes], object], value: object) -> None:
    with pytest.raises(SessionError) as caught:
        read(cbor.encode(value))
    assert caught.value.code == "message.malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"texts": "a"},
        {"texts": [b"a"]},
        {"texts": ["a", None]},
        {"nonce": b"n" * 31},
        {"nonce": "n" * 32},
        {"salt": b"s" * 17},
        {"salt": None},
        {"previous": b"h" * 31},
        {"previous": "h" * 32},
        {"more": 1},
    ],
)
def test_malformed_embed_requests(change: dict[str, Any]) -> None:
    EmbedRequest.from_bytes(cbor.encode(EMBED_REQUEST))
    refused(EmbedRequest.from_bytes, EMBED_REQUEST | change)


@pytest.mark.parametrize(
    "change",
    [
        {"vectors": bytes(23)},
        {"vectors": bytes(28)},
        {"vectors": "x"},
        {"count": 3},
        {"count": -1},
        {"count": True},
        {"dimension": 2**32},
        {"count": 2**31, "dimension": 2**31},
        {"tokens": -1},
        {"tokens": None},
        {"salt": b""},
        {"salt": 1},
    ],
)
def test_malformed_embed_responses(change: dict[str, Any]) -> None:
    EmbedResponse.from_bytes(cbor.encode(EMBED_RESPONSE))
    refused(EmbedResponse.from_bytes, EMBED_RESPONSE | change)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (Request.from_bytes, {"id": 2**32, "body": b""}),
        (Request.from_bytes, {"id": "1", "body": b""}),
        (Request.from_bytes, {"id": 1, "body": "text"}),
        (Response.from_bytes, {"id": 1, "body": b"", "receipt": None}),
        (Response.from_bytes, {"id": 1, "body": None, "receipt": b""}),
        (Refusal.from_bytes, REFUSAL | {"code": 1}),
        (Refusal.from_bytes, REFUSAL | {"message": b""}),
        (Refusal.from_bytes, REFUSAL | {"retry_after_ms": -1}),
        (Notice.from_bytes, {"code": 1, "message": ""}),
        (Notice.from_bytes, {"code": "", "message": None}),
        (Notice.from_bytes, ["code", "message"]),
    ],
)
def test_malformed_messages(read: Callable[[bytes], object], value: object) -> None:
    refused(read, value)
