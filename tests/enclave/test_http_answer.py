"""One form of answer is read, whatever pieces it comes in; every other is refused within its caps."""

from __future__ import annotations

import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.enclave.http_answer import MAX_BODY_BYTES, MAX_HEAD_BYTES, read_answer
from ephemeralml.errors import KeyReleaseError

GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\r\n{}"


class Stream:
    """Gives `data` in pieces of at most `piece` bytes, and says where it ended."""

    def __init__(self, data: bytes, piece: int = 1 << 20) -> None:
        self._data = io.BytesIO(data)
        self._piece = piece
        self.given = 0

    def read(self, size: int) -> bytes:
        assert size > 0
        data = self._data.read(min(size, self._piece))
        self.given += len(data)
        if not data:
            raise ConnectionError
        return data


def refusal(data: bytes) -> str:
    with pytest.raises(KeyReleaseError) as caught:
        read_answer(Stream(data).read)
    assert caught.value.code == "kms.answer"
    return str(caught.value)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_an_answer_in_any_pieces(piece: int) -> None:
    assert read_answer(Stream(GOOD, piece).read) == (200, b"{}")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 400 \r\ncontent-length:3\r\n\r\nabc", (400, b"abc")),
        (b"HTTP/1.1 204 x\r\nCONTENT-LENGTH: \t0 \r\nx-empty:\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 200 OK\r\nX:\t a\t b \t\r\ncontent-length:\t 1\t \r\n\r\nx", (200, b"x")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", (302, b"")),
    ],
)
def test_answers(answer: bytes, expected: tuple[int, bytes]) -> None:
    assert read_answer(Stream(answer).read) == expected


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        GOOD.replace(b"1.1 200", b"1.0 200"),
        GOOD.replace(b"HTTP/1.1", b"HTTP/2"),
        GOOD.replace(b"200", b"100"),
        GOOD.replace(b"200", b"20"),
        GOOD.replace(b"200 OK", b"200"),
        GOOD.replace(b"200 ", b"200\n "),
        GOOD.replace(b"HTTP", b" HTTP"),
        GOOD + b"x",
        GOOD + GOOD,
        HEAD + b"\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
        HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
        HEAD + b"Content-Length: +2\r\n\r\n{}",
        HEAD + b"Content-Length: -1\r\n\r\n{}",
        HEAD + b"Content-Length: 0x2\r\n\r\n{}",
        HEAD + b"Content-Length:\r\n\r\n{}",
        HEAD + b"Content-Length: \xc2\xb2\r\n\r\n{}",
        HEAD + b"Content-Length: 0000002\r\n\r\n{}",
        HEAD + b"Content-Length : 2\r\n\r\n{}",
        HEAD + b" Content-Length: 2\r\n\r\n{}",
        HEAD + b"X: a\r\n Content-Length: 2\r\n\r\n{}",
        HEAD + b"X: a\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"no colon\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\ntransfer-encoding: identity\r\n\r\n{}",
        b"\r\n\r\n",
        b"<html>\r\n\r\n",
    ],
)
def test_any_other_form_is_refused(answer: bytes) -> None:
    refusal(answer)


@pytest.mark.parametrize("blank", [b" ", b"\t", b"\t "])
def test_blanks_are_gone_over_once(blank: bytes) -> None:
    """Where every split of them is tried, this line alone takes longer than anybody waits."""
    blanks = blank * ((MAX_HEAD_BYTES - 100) // len(blank))
    refusal(HEAD + b"X:" + blanks + b"\x7f\r\nContent-Length: 2\r\n\r\n{}")
    assert read_answer(Stream(HEAD + b"X:" + blanks + b"\r\nContent-Length: 2\r\n\r\n{}").read) == (200, b"{}")


def test_a_head_without_end_is_read_to_its_cap() -> None:
    stream = Stream(HEAD + b"X: " + b"a" * (1 << 20))
    with pytest.raises(KeyReleaseError, match="header is larger"):
        read_answer(stream.read)
    assert stream.given == MAX_HEAD_BYTES


def test_a_body_above_its_cap_is_not_read() -> None:
    largest = HEAD + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES + bytes(MAX_BODY_BYTES)
    assert read_answer(Stream(largest).read) == (200, bytes(MAX_BODY_BYTES))
    stream = Stream(HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1) + bytes(1 << 20))
    with pytest.raises(KeyReleaseError, match="body is larger"):
        read_answer(stream.read)
    assert stream.given == MAX_HEAD_BYTES


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_a_truncated_answer_is_never_taken_for_a_whole_one(end: int) -> None:
    with pytest.raises(ConnectionError):
        read_answer(Stream(GOOD[:end]).read)


PIECES = [b"HTTP/1.1 ", b"200 OK", b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"2", b"{}", b"X: "]


@given(
    st.integers(0, len(GOOD)), st.integers(0, 4), st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=4)
)
def test_what_is_read_is_what_the_standard_library_reads(at: int, cut: int, pieces: list[bytes]) -> None:
    data = GOOD[:at] + b"".join(pieces) + GOOD[at + cut :]
    try:
        ours = read_answer(Stream(data).read)
    except (KeyReleaseError, ConnectionError):
        return

    class Socket:
        def makefile(self, _: str) -> io.BytesIO:
            return io.BytesIO(data)

    theirs = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    theirs.begin()
    assert ours == (theirs.status, theirs.read())


@given(st.binary(max_size=2), st.sampled_from([200, 400, 500]), st.binary(max_size=400), st.integers(1, 50))
def test_round_trip(reason: bytes, status: int, body: bytes, piece: int) -> None:
    reason = bytes(byte for byte in reason if byte >= 0x20 and byte != 0x7F)
    data = b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s" % (status, reason, len(body), body)
    assert read_answer(Stream(data, piece).read) == (status, body)
