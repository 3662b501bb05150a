"""Whatever is done to the records on their way, the receiver sees a prefix of what was sent, or the typed error."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import SessionError
from ephemeralml.session import records
from ephemeralml.session.frames import HEADER, FrameType, decode_header
from ephemeralml.session.limits import RECORD_FRAME_BYTES
from ephemeralml.session.records import MAX_PLAINTEXT, SMALLEST_BUCKET, Opener, Sealer, padded_size

KEY, OTHER_KEY, SESSION = b"k" * 32, b"o" * 32, b"s" * 16
MESSAGES = [b"first", b"second", b"third", b"fourth"]


def sealed(*messages: bytes, kind: FrameType = FrameType.REQUEST) -> list[bytes]:
    sealer = Sealer(KEY, SESSION)
    return [sealer.seal(kind, message) for message in messages]


def opened(frame: bytes, opener: Opener) -> bytes:
    kind, _ = decode_header(frame[: HEADER.size], limit=RECORD_FRAME_BYTES)
    return opener.open(kind, frame[HEADER.size :])


def refusal(body: bytes, opener: Opener | None = None, kind: FrameType = FrameType.REQUEST) -> str:
    with pytest.raises(SessionError) as caught:
        (opener or Opener(KEY, SESSION)).open(kind, body)
    return caught.value.code


@given(st.lists(st.tuples(st.sampled_from(FrameType), st.binary(max_size=3000)), max_size=5))
def test_records_arrive_as_sent(messages: list[tuple[FrameType, bytes]]) -> None:
    sealer, opener = Sealer(KEY, SESSION), Opener(KEY, SESSION)
    for kind, message in messages:
        frame = sealer.seal(kind, message)
        assert opener.open(kind, frame[HEADER.size :]) == message


@given(st.integers(0, MAX_PLAINTEXT))
def test_buckets_are_powers_of_two_that_fit_a_frame(size: int) -> None:
    bucket = padded_size(size)
    assert bucket.bit_count() == 1
    assert bucket >= size + 4
    assert bucket == SMALLEST_BUCKET or bucket < 2 * (size + 4)
    assert bucket + 16 <= RECORD_FRAME_BYTES


def test_lengths_tell_the_bucket_only() -> None:
    lengths = {len(sealed(b"x" * size)[0]) for size in range(0, 1021, 60)}
    assert lengths == {HEADER.size + SMALLEST_BUCKET + 16}
    assert len(sealed(b"x" * 1021)[0]) == HEADER.size + 2 * SMALLEST_BUCKET + 16


def test_largest_record_fits_and_no_larger_one() -> None:
    [frame] = sealed(bytes(MAX_PLAINTEXT))
    assert len(frame) - HEADER.size <= RECORD_FRAME_BYTES
    assert len(opened(frame, Opener(KEY, SESSION))) == MAX_PLAINTEXT
    with pytest.raises(SessionError) as caught:
        sealed(bytes(MAX_PLAINTEXT + 1))
    assert caught.value.code == "record.too_large"


@given(position=st.integers(0, SMALLEST_BUCKET + 15), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(position: int, bit: int) -> None:
    body = bytearray(sealed(b"a secret")[0][HEADER.size :])
    body[position] ^= 1 << bit
    assert refusal(bytes(body)) == "record.authentication"


@given(st.lists(st.integers(0, 3), max_size=6))
def test_replay_drop_and_reorder_are_found(order: list[int]) -> None:
    frames, opener = sealed(*MESSAGES), Opener(KEY, SESSION)
    good = list(itertools.takewhile(lambda pair: pair[0] == pair[1], enumerate(order)))
    for index, _ in good:
        assert opened(frames[index], opener) == MESSAGES[index]
    for number, index in enumerate(order[len(good) :]):
        with pytest.raises(SessionError) as caught:
            opened(frames[index], opener)
        assert caught.value.code == ("record.ended" if number else "record.authentication")


def test_nothing_opens_after_a_record_that_did_not() -> None:
    frames, opener = sealed(*MESSAGES), Opener(KEY, SESSION)
    assert opened(frames[0], opener) == b"first"
    assert refusal(b"garbage" * 10, opener) == "record.authentication"
    assert refusal(frames[1][HEADER.size :], opener) == "record.ended"
    assert refusal(frames[2][HEADER.size :], opener) == "record.ended"


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert refusal(body) == "record.authentication"


@given(cut=st.integers(1, SMALLEST_BUCKET + 16))
def test_truncated_and_extended_records_are_refused(cut: int) -> None:
    body = sealed(b"text")[0][HEADER.size :]
    assert refusal(body[:-cut]) == "record.authentication"
    assert refusal(body + bytes(cut)) == "record.authentication"


@pytest.mark.parametrize("kind", [kind for kind in FrameType if kind is not FrameType.REQUEST])
def test_another_frame_type_is_refused(kind: FrameType) -> None:
    assert refusal(sealed(b"text")[0][HEADER.size :], kind=kind) == "record.authentication"


def test_another_key_or_session_is_refused() -> None:
    body = sealed(b"text")[0][HEADER.size :]
    # The directions' keys differ: a reflected record is one of another key.
    assert refusal(body, Opener(OTHER_KEY, SESSION)) == "record.authentication"
    assert refusal(body, Opener(KEY, b"t" * 16)) == "record.authentication"


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x01a",
        (1021).to_bytes(4) + bytes(1020),
        (2**32 - 1).to_bytes(4) + bytes(1020),
        (4).to_bytes(4) + bytes(2044),
        (1021).to_bytes(4) + bytes(1021),
    ],
    ids=["empty", "short", "bare length", "unpadded", "one over", "huge", "wrong bucket", "not a bucket"],
)
def test_padding_must_be_the_one_for_the_length(padded: bytes) -> None:
    body = ChaCha20Poly1305(KEY).encrypt(bytes(12), padded, SESSION + bytes((FrameType.REQUEST,)))
    opener = Opener(KEY, SESSION)
    assert refusal(body, opener) == "record.padding"
    assert refusal(sealed(*MESSAGES)[1][HEADER.size :], opener) == "record.ended"


def test_counter_is_the_nonce() -> None:
    frames = sealed(b"same", b"same")
    assert frames[0] != frames[1]
    aad = SESSION + bytes((FrameType.REQUEST,))
    for counter, frame in enumerate(frames):
        plain = ChaCha20Poly1305(KEY).decrypt(counter.to_bytes(12), frame[HEADER.size :], aad)
        assert plain == b"\x00\x00\x00\x04same" + bytes(1016)


def test_counter_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MAX_RECORDS", 2)
    sealer = Sealer(KEY, SESSION)
    sealer.seal(FrameType.REQUEST, b"1")
    sealer.seal(FrameType.REQUEST, b"2")
    with pytest.raises(SessionError) as caught:
        sealer.seal(FrameType.REQUEST, b"3")
    assert caught.value.code == "record.exhausted"
