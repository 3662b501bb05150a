"""Bad clients beside good ones, and somebody in between: the good are served, the others end themselves only."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from frames import read_frame
from threads import in_threads

from ephemeralml.client import Client
from ephemeralml.errors import AttestationError, BusyError, EphemeralMLError, SessionError, TransportError
from ephemeralml.session.blocking import write_all
from ephemeralml.session.frames import HEADER, FrameType, decode_header, encode_frame
from ephemeralml.session.handshake import ClientHandshake, now
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES, RECORD_FRAME_BYTES, REQUEST_BYTES
from ephemeralml.session.messages import EmbedRequest, Request
from ephemeralml.session.records import Sealer
from ephemeralml.session.transport import Address, connect

from .conftest import Deployment

MIB = 1024 * 1024


def dial(deployment: Deployment) -> socket.socket:
    return connect(Address.parse(deployment.address), timeout=10)


def open_session(deployment: Deployment) -> tuple[socket.socket, Sealer]:
    """What a client does to be heard; anybody can."""
    connection, handshake = dial(deployment), ClientHandshake()
    write_all(connection, handshake.hello())
    _, evidence = read_frame(connection, limit=HANDSHAKE_FRAME_BYTES)
    _, keys, opening = handshake.receive_evidence(evidence, policy=deployment.policy, at=now())
    write_all(connection, opening)
    return connection, Sealer(keys.client_to_enclave, keys.session_id)


def request(texts: tuple[str, ...], *, number: int = 0) -> bytes:
    return Request(number, EmbedRequest(texts, bytes(32), bytes(16), None).to_bytes()).to_bytes()


# Each takes a deployment and an event to stop at, and is as bad as it can be until then.


def silent(deployment: Deployment, stop: threading.Event) -> None:
    with dial(deployment):
        stop.wait()


def slow(deployment: Deployment, stop: threading.Event) -> None:
    with dial(deployment) as connection:
        for byte in ClientHandshake().hello():
            connection.sendall(bytes((byte,)))
            if stop.wait(0.2):
                return


def garbage(deployment: Deployment, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        with dial(deployment) as connection, suppress(OSError):
            connection.sendall(os.urandom(4096))
            connection.recv(4096)


def oversized(deployment: Deployment, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        with dial(deployment) as connection:
            connection.sendall(HEADER.pack(2**32 - 1, FrameType.HELLO))
            connection.recv(4096)


def announcing(deployment: Deployment, stop: threading.Event) -> None:
    """Sessions that announce the largest record there is, and send next to nothing of it."""
    while not stop.wait(0.05):
        connection, _ = open_session(deployment)
        with connection, suppress(OSError):
            connection.sendall(HEADER.pack(REQUEST_BYTES + 16, FrameType.REQUEST) + b"x")
            stop.wait(3)


def half_open(deployment: Deployment, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        with dial(deployment) as connection:
            write_all(connection, ClientHandshake().hello())
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)


def never_reading(deployment: Deployment, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        connection, sealer = open_session(deployment)
        with connection, suppress(OSError):
            for number in range(200):
                frame = sealer.seal(FrameType.REQUEST, request(("a",) * 500, number=number))
                connection.sendall(frame)
                if stop.is_set():
                    return


def vanishing(deployment: Deployment, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        connection, sealer = open_session(deployment)
        with connection:
            write_all(connection, sealer.seal(FrameType.REQUEST, request(("a",) * 500)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


HOSTILE = [silent, slow, garbage, oversized, announcing, half_open, never_reading, vanishing]


@contextmanager
def hostile(deployment: Deployment, kinds: list[Callable[[Deployment, threading.Event], None]]) -> Iterator[None]:
    stop = threading.Event()

    def one(kind: Callable[[Deployment, threading.Event], None]) -> None:
        # The enclave may turn a bad client away at any moment.
        while not stop.is_set():
            with suppress(EphemeralMLError, OSError):
                kind(deployment, stop)

    threads = [threading.Thread(target=one, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def soak(deployment: Deployment, *, good: int, bad: int, seconds: float) -> None:
    """Good clients work beside bad ones: all their answers are right, and the enclave's memory stays flat."""
    with deployment.client() as client:
        client.embed(["warm"] * 500)
    deadline = time.monotonic() + seconds
    failures: list[BaseException] = []
    answers = [0] * good
    sizes: list[int] = []

    def work(number: int) -> None:
        texts = [f"good {number}", "the quick brown fox"]
        expected = deployment.encoder.encode(texts)
        try:
            with deployment.client(timeout=20) as client:
                while time.monotonic() < deadline:
                    try:
                        result = client.embed(texts)
                    except BusyError as busy:
                        time.sleep(busy.retry_after / 10)
                        continue
                    np.testing.assert_allclose(result.vectors, expected, atol=1e-5)
                    answers[number] += 1
                    time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    with hostile(deployment, [HOSTILE[number % len(HOSTILE)] for number in range(bad)]):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(good)]
        for thread in threads:
            thread.start()
        while time.monotonic() < deadline:
            sizes.append(deployment.enclave_rss)
            time.sleep(0.1)
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(answers) > 0
    assert deployment.enclave.process.poll() is None
    # The first half fills pools and caches; after it nothing may grow.
    half = len(sizes) // 2
    assert max(sizes[half:]) - max(sizes[:half]) < 24 * MIB
    with deployment.client() as client:
        client.embed(["after"])


def test_good_clients_are_served_beside_bad_ones(strict: Deployment) -> None:
    soak(strict, good=4, bad=len(HOSTILE), seconds=6)


@pytest.mark.slow
def test_sixty_four_clients_eight_of_them_hostile_for_a_minute(deployed: Deployment) -> None:
    soak(deployed, good=56, bad=8, seconds=60)


def test_announced_lengths_take_nothing_from_the_others(strict: Deployment) -> None:
    # Together they announce ten times what all sessions may hold.
    with hostile(strict, [announcing] * 10):
        time.sleep(0.5)
        with strict.client() as client:
            for _ in range(20):
                assert client.embed(["a"] * 200).vectors.shape == (200, 32)


@pytest.mark.parametrize("bad", [silent, slow, announcing])
def test_the_enclave_hangs_up_on_those_who_do_not_get_on(
    strict: Deployment, bad: Callable[[Deployment, threading.Event], None]
) -> None:
    if bad is announcing:
        connection, _ = open_session(strict)
        connection.sendall(HEADER.pack(REQUEST_BYTES, FrameType.REQUEST) + b"x")
    else:
        connection = dial(strict)
        connection.sendall(b"" if bad is silent else HEADER.pack(40, FrameType.HELLO) + b"x")
    with connection:
        start = time.monotonic()
        received = b""
        with suppress(ConnectionResetError):
            while chunk := connection.recv(4096):
                received += chunk
        assert 1 < time.monotonic() - start < 6
    assert (b"session.slow" in received) == (bad is announcing)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (HEADER.pack(HANDSHAKE_FRAME_BYTES + 1, FrameType.HELLO), b"frame.too_large"),
        (HEADER.pack(2**32 - 1, FrameType.HELLO), b"frame.too_large"),
        (HEADER.pack(0, 0x77), b"frame.unknown"),
        (encode_frame(FrameType.REQUEST, b"early"), b"handshake.order"),
        (encode_frame(FrameType.OPEN, b"early"), b"handshake.order"),
        (encode_frame(FrameType.HELLO, b"garbage"), b"hello.malformed"),
    ],
)
def test_a_violation_is_named_and_ends_its_connection(deployed: Deployment, frame: bytes, code: bytes) -> None:
    with dial(deployed) as connection:
        connection.sendall(frame)
        kind, body = read_frame(connection, limit=HANDSHAKE_FRAME_BYTES)
        assert kind is FrameType.ALERT
        assert code in body
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (HEADER.pack(REQUEST_BYTES + 17, FrameType.REQUEST), b"frame.too_large"),
        (encode_frame(FrameType.REQUEST, b"x" * 1040), b"record.authentication"),
        (encode_frame(FrameType.CLOSE, b"x" * 1040), b"record.authentication"),
        (encode_frame(FrameType.RESPONSE, b"x"), b"session.order"),
        (encode_frame(FrameType.HELLO, b"x"), b"session.order"),
    ],
)
def test_a_violation_in_a_session_ends_it(deployed: Deployment, frame: bytes, code: bytes) -> None:
    connection, _ = open_session(deployed)
    with connection:
        connection.sendall(frame)
        received = b""
        with suppress(ConnectionResetError):
            while chunk := connection.recv(4096):
                received += chunk
    assert code in received


# Somebody in between, who sees frames and may change them.


class Middle:
    """A relay that hands each frame to `change`, which returns what goes on instead; `change` None lets it pass."""

    def __init__(self, target: str, change: Callable[[str, int, bytes], list[bytes]]) -> None:
        self._target = Address.parse(target)
        self._change = change
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                client.settimeout(10)
                self.connections += 1
                enclave = connect(self._target, timeout=10)
                for side, source, sink in (("up", client, enclave), ("down", enclave, client)):
                    threading.Thread(target=self._pump, args=(side, source, sink), daemon=True).start()

    def _pump(self, side: str, source: socket.socket, sink: socket.socket) -> None:
        number = 0
        with suppress(OSError, EphemeralMLError), source:
            while True:
                kind, body = read_frame(source, limit=RECORD_FRAME_BYTES)
                for frame in self._change(side, number, encode_frame(kind, body)):
                    sink.sendall(frame)
                number += 1
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def between(deployed: Deployment) -> Iterator[Callable[..., tuple[Client, Middle]]]:
    """A client whose frames pass through a `Middle`."""
    middles: list[Middle] = []

    def make(change: Callable[[str, int, bytes], list[bytes]]) -> tuple[Client, Middle]:
        middles.append(Middle(deployed.address, change))
        return Client(middles[-1].address, policy=deployed.policy, timeout=3), middles[-1]

    yield make
    for middle in middles:
        middle.close()


def flip(frame: bytes, position: int = -1) -> bytes:
    changed = bytearray(frame)
    changed[position] ^= 1
    return bytes(changed)


def on(side: str, number: int, change: Callable[[bytes], list[bytes]]) -> Callable[[str, int, bytes], list[bytes]]:
    return lambda where, count, frame: change(frame) if (where, count) == (side, number) else [frame]


def drop(_: bytes) -> list[bytes]:
    return []


def test_a_relay_that_changes_nothing_is_not_noticed(between: Any) -> None:
    client, middle = between(lambda _side, _number, frame: [frame])
    with client:
        for _ in range(5):
            client.embed(["a"])
    assert middle.connections == client.attestations == 1


# Frames up: HELLO, OPEN, requests. Frames down: EVIDENCE, ACCEPT, answers.
@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (on("up", 0, lambda frame: [flip(frame, 20)]), AttestationError, "freshness.nonce"),
        (on("up", 1, lambda frame: [flip(frame)]), SessionError, "alert.open.hpke"),
        (on("up", 2, lambda frame: [flip(frame)]), SessionError, "alert.record.authentication"),
        (on("up", 3, lambda frame: [flip(frame)]), SessionError, "alert.record.authentication"),
        (on("up", 2, lambda frame: [frame, frame]), SessionError, None),
        (on("up", 2, lambda frame: [flip(frame, 4)]), SessionError, None),
        (on("down", 1, lambda frame: [flip(frame)]), SessionError, "accept.confirmation"),
        (on("down", 1, drop), SessionError, "handshake.order"),
        (on("down", 2, lambda frame: [flip(frame)]), SessionError, "record.authentication"),
        (on("down", 2, lambda frame: [flip(frame, 4)]), SessionError, None),
        (on("down", 2, lambda frame: [frame[:4] + bytes((FrameType.REFUSAL,)) + frame[5:]]), SessionError, None),
        (on("down", 2, drop), TransportError, "transport.timeout"),
        (on("down", 3, lambda frame: [flip(frame, 10)]), SessionError, "record.authentication"),
    ],
    ids=[
        *("hello flipped", "open flipped", "request flipped", "second request flipped", "request replayed"),
        *("request retyped", "accept flipped", "accept dropped", "answer flipped", "answer retyped"),
        *("answer called a refusal", "answer dropped", "second answer flipped"),
    ],
)
def test_tampering_is_a_typed_error_and_no_vectors(
    between: Any, change: Callable[[str, int, bytes], list[bytes]], error: type[EphemeralMLError], code: str | None
) -> None:
    client, middle = between(change)

    def ask() -> None:
        for _ in range(3):
            client.embed(["a secret"])
            time.sleep(0.05)

    with pytest.raises(error) as caught:
        ask()
    assert code is None or caught.value.code == code
    # Tampering is not answered with another try.
    assert middle.connections == 1
    client.close()


def test_a_replayed_answer_is_refused(between: Any) -> None:
    first: list[bytes] = []

    def change(side: str, number: int, frame: bytes) -> list[bytes]:
        if side == "down" and number == 2:
            first.append(frame)
        return first if side == "down" and number == 3 else [frame]

    client, _ = between(change)
    client.embed(["a"])
    with pytest.raises(SessionError) as caught:
        client.embed(["b"])
    assert caught.value.code == "record.authentication"


def test_answers_out_of_their_order_on_the_wire_are_refused(between: Any) -> None:
    held: list[bytes] = []

    def change(side: str, number: int, frame: bytes) -> list[bytes]:
        if side == "down" and number == 2:
            held.append(frame)
            return []
        return [frame, *held] if side == "down" and number == 3 else [frame]

    client, _ = between(change)
    with client:
        raised = in_threads(2, lambda number: client.embed([str(number)]))
    assert [getattr(error, "code", error) for error in raised] == ["record.authentication"] * 2


def test_evidence_of_another_session_is_refused(between: Any, deployed: Deployment) -> None:
    with dial(deployed) as connection:
        write_all(connection, ClientHandshake().hello())
        kind, body = read_frame(connection, limit=HANDSHAKE_FRAME_BYTES)
    recorded = encode_frame(kind, body)
    client, _ = between(on("down", 0, lambda _: [recorded]))
    with pytest.raises(AttestationError) as caught:
        client.embed(["a secret"])
    assert caught.value.code == "freshness.nonce"


def test_nothing_of_the_client_is_sent_after_evidence_that_was_refused(between: Any) -> None:
    up: list[FrameType] = []

    def change(side: str, number: int, frame: bytes) -> list[bytes]:
        if side == "up":
            up.append(decode_header(frame[: HEADER.size], limit=RECORD_FRAME_BYTES)[0])
        return [flip(frame, 3000)] if side == "down" and number == 0 else [frame]

    client, middle = between(change)
    with pytest.raises(EphemeralMLError):
        client.embed(["a secret"])
    time.sleep(0.1)
    assert up == [FrameType.HELLO]
    assert middle.connections == 1


def test_a_forged_alert_ends_things_and_cannot_write_to_the_terminal(between: Any) -> None:
    forged = encode_frame(FrameType.ALERT, b"\xa2dcodegescaped" + b"gmessageh\x1b[2Jgone")
    client, _ = between(on("down", 2, lambda _: [forged]))
    with pytest.raises(SessionError) as caught:
        client.embed(["a"])
    assert caught.value.code == "alert.escaped"
    assert str(caught.value).isprintable()
