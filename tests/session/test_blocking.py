from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from ephemeralml.errors import SessionError, TransportError
from ephemeralml.session.blocking import read_exactly, read_frame, write_all
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
