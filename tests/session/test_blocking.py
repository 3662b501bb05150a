from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from frames import read_frame

from ephemeralml.errors import SessionError, TransportError
from ephemeralml.session.blocking import FrameReader, read_exactly, write_all
from ephemeralml.session.frames import FrameType, encode_frame

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def test_frames_arrive_in_pieces(pair: Pair) -> None:
    ours, theirs = pair
    frame = encode_frame(FrameType.HELLO, b"x" * 1000)

    def drip() -> None:
        for start in range(0, len(frame), 7):
            theirs.sendall(frame[start : start + 7])

    thread = threading.Thread(target=drip)
    thread.start()
    assert read_frame(ours, limit=1000) == (FrameType.HELLO, b"x" * 1000)
    thread.join()


def test_large_writes_arrive_whole(pair: Pair) -> None:
    ours, theirs = pair
    data = bytes(range(256)) * 8000
    box: list[bytes] = []
    thread = threading.Thread(target=lambda: box.append(read_exactly(theirs, len(data))))
    thread.start()
    write_all(ours, data)
    thread.join()
    assert box == [data]


def test_nothing_is_read_for_a_frame_that_is_too_large(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(encode_frame(FrameType.HELLO, b"x" * 11))
    with pytest.raises(SessionError) as caught:
        read_frame(ours, limit=10)
    assert caught.value.code == "frame.too_large"
    assert ours.recv(100) == b"x" * 11


def code_of(action: object) -> str:
    with pytest.raises(TransportError) as caught:
        action()  # type: ignore[operator]
    return caught.value.code


def test_a_peer_that_closes(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"ab")
    theirs.close()
    assert code_of(lambda: read_exactly(ours, 3)) == "transport.closed"
    assert code_of(lambda: write_all(ours, b"x")) == "transport.closed"


def test_a_peer_that_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        theirs.close()
        assert code_of(lambda: read_exactly(ours, 1)) == "transport.closed"


def test_a_silent_peer(pair: Pair) -> None:
    ours, _ = pair
    ours.settimeout(0.05)
    assert code_of(lambda: read_exactly(ours, 1)) == "transport.timeout"


def test_a_peer_that_sends_a_byte_now_and_then(pair: Pair) -> None:
    ours, theirs = pair
    ours.settimeout(0.2)
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            theirs.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert code_of(lambda: read_exactly(ours, 1000)) == "transport.timeout"
    finally:
        stop.set()
        thread.join()


def test_a_peer_that_does_not_read(pair: Pair) -> None:
    ours, _ = pair
    ours.settimeout(0.05)
    assert code_of(lambda: write_all(ours, bytes(1 << 22))) == "transport.timeout"


def test_a_socket_closed_by_another_thread(pair: Pair) -> None:
    ours, _ = pair
    ours.close()
    assert code_of(lambda: read_exactly(ours, 1)) == "transport.closed"
    assert code_of(lambda: write_all(ours, b"x")) == "transport.closed"


def test_a_peer_that_takes_a_byte_now_and_then(pair: Pair) -> None:
    ours, theirs = pair
    ours.settimeout(0.3)
    stop = threading.Event()

    def sip() -> None:
        while not stop.wait(0.02):
            theirs.recv(30_000)

    thread = threading.Thread(target=sip)
    thread.start()
    try:
        assert code_of(lambda: write_all(ours, bytes(1 << 25))) == "transport.timeout"
    finally:
        stop.set()
        thread.join()


def test_a_reader_goes_on_after_a_deadline(pair: Pair) -> None:
    ours, theirs = pair
    reader = FrameReader(ours)
    first, second = encode_frame(FrameType.HELLO, b"x" * 1000), encode_frame(FrameType.CLOSE, b"y")
    for size in (3, 500):
        theirs.sendall(first[:size])
        with pytest.raises(TimeoutError):
            reader.read(limit=1000, deadline=time.monotonic() + 0.05)
        first = first[size:]
    before = reader.heard
    theirs.sendall(first + second)
    assert reader.read(limit=1000, deadline=time.monotonic() + 5) == (FrameType.HELLO, b"x" * 1000)
    assert reader.heard > before
    # Both came in one piece: the second is there already, however late it is.
    assert reader.read(limit=1000, deadline=0) == (FrameType.CLOSE, b"y")
    with pytest.raises(TimeoutError):
        reader.read(limit=1000, deadline=0)


def test_a_reader_refuses_what_is_too_large_and_says_when_it_ends(pair: Pair) -> None:
    ours, theirs = pair
    reader = FrameReader(ours)
    theirs.sendall(encode_frame(FrameType.HELLO, b"x" * 11))
    with pytest.raises(SessionError):
        reader.read(limit=10, deadline=time.monotonic() + 5)
    other, end = socket.socketpair()
    with other:
        reader = FrameReader(other)
        end.sendall(b"\0")
        end.close()
        assert code_of(lambda: reader.read(limit=1000, deadline=time.monotonic() + 5)) == "transport.closed"
    assert code_of(lambda: reader.read(limit=1000, deadline=time.monotonic() + 5)) == "transport.closed"


def test_a_reader_of_a_peer_that_sends_a_byte_now_and_then(pair: Pair) -> None:
    ours, theirs = pair
    reader = FrameReader(ours)
    stop = threading.Event()

    def drip() -> None:
        for byte in encode_frame(FrameType.HELLO, b"x" * 1000):
            theirs.sendall(bytes((byte,)))
            if stop.wait(0.02):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(TimeoutError):
            reader.read(limit=1000, deadline=time.monotonic() + 0.3)
    finally:
        stop.set()
        thread.join()
