from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import SessionError
from ephemeralml.session.frames import HEADER, FrameType, decode_header, encode_frame


@given(kind=st.sampled_from(FrameType), body=st.binary(max_size=300))
def test_round_trip(kind: FrameType, body: bytes) -> None:
    frame = encode_frame(kind, body)
    assert decode_header(frame[: HEADER.size], limit=300) == (kind, len(body))
    assert frame[HEADER.size :] == body


def test_layout_is_fixed() -> None:
    assert encode_frame(FrameType.HELLO, b"abc") == b"\x00\x00\x00\x03\x01abc"
    assert {int(kind) for kind in FrameType} == {1, 2, 3, 4, 5, 0x10, 0x11, 0x12, 0x13}


def test_limit_is_inclusive() -> None:
    assert decode_header(HEADER.pack(10, 1), limit=10) == (FrameType.HELLO, 10)
    with pytest.raises(SessionError) as caught:
        decode_header(HEADER.pack(11, 1), limit=10)
    assert caught.value.code == "frame.too_large"


@given(header=st.binary(min_size=5, max_size=5), limit=st.integers(0, 2**24))
def test_any_header_is_a_frame_or_a_session_error(header: bytes, limit: int) -> None:
    try:
        kind, length = decode_header(header, limit=limit)
    except SessionError as error:
        assert error.code in {"frame.too_large", "frame.unknown", "frame.http"}  # noqa: PT017
    else:
        assert length <= limit
        assert HEADER.pack(length, kind) == header


def test_a_web_server_is_called_one() -> None:
    with pytest.raises(SessionError) as caught:
        decode_header(b"HTTP/1.1 400 Bad Request"[: HEADER.size], limit=2**24)
    assert caught.value.code == "frame.http"
    assert "bytes" not in str(caught.value)
