"""The client against an enclave that is attested and yet answers wrongly: an answer counts only with its proof."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from frames import read_frame
from samples import OWNER, PCRS, make_manifest
from samples import RECEIPT_KEY as KEY
from starlette.applications import Starlette
from threads import in_threads

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.client import Client
from ephemeralml.client import channel as module
from ephemeralml.client.connection import Connection
from ephemeralml.codec import cbor
from ephemeralml.devcloud.app_server import AppServer, bind
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import (
    AttestationError,
    BusyError,
    ConfigurationError,
    EphemeralMLError,
    ReceiptError,
    RequestError,
    SessionError,
    TransportError,
)
from ephemeralml.receipts import Claims, EnclaveMeasurements, issue_receipt
from ephemeralml.session.blocking import FrameReader, write_all
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.handshake import EnclaveHandshake
from ephemeralml.session.hpke import HpkeKey
from ephemeralml.session.limits import RECORD_FRAME_BYTES
from ephemeralml.session.messages import EmbedRequest, EmbedResponse, Notice, Refusal, Request, Response
from ephemeralml.session.records import Opener, Sealer

STRANGER = Ed25519PrivateKey.from_private_bytes(b"\3" * 32)
MANIFEST = make_manifest(dimension=4)


@dataclass
class Session:
    """The enclave's end of one session, as `answer` gets it."""

    socket: socket.socket
    sealer: Sealer
    document: bytes
    number: int

    def send(self, kind: FrameType, message: bytes) -> None:
        write_all(self.socket, self.sealer.seal(kind, message))

    def receipt(self, body: bytes, answer: bytes, *, key: Ed25519PrivateKey = KEY, **changes: Any) -> bytes:
        claims = Claims(
            iss="test",
            iat=int(time.time()),
            cti=uuid.uuid4().bytes,
            eat_nonce=EmbedRequest.from_bytes(body).nonce,
            model_id=MANIFEST.model_id,
            model_version=str(MANIFEST.version),
            model_hash=MANIFEST.digest,
            request_hash=sha256(body).digest(),
            response_hash=sha256(answer).digest(),
            attestation_doc_hash=sha256(self.document).digest(),
            enclave_measurements=EnclaveMeasurements(
                measurement_type="nitro-pcr", **{f"pcr{index}": PCRS[index] for index in (0, 1, 2, 3, 4, 8)}
            ),
            policy_version="1",
            sequence_number=0,
            execution_time_ms=1,
            memory_peak_mb=1,
            security_mode="evaluation",
            model_hash_scheme="sha256-manifest",
        )
        return issue_receipt(replace(claims, **changes), key)

    def right(self, request: Request, **changes: Any) -> Response:
        """The answer to a request: one vector of ones a text."""
        count = len(EmbedRequest.from_bytes(request.body).texts)
        answer = EmbedResponse(np.ones((count, 4), np.float32), count, b"s" * 16).to_bytes()
        return Response(request.id, answer, self.receipt(request.body, answer, **changes))


Answer = Callable[[Session, Request], None]


def rightly(session: Session, request: Request) -> None:
    session.send(FrameType.RESPONSE, session.right(request).to_bytes())


Greet = Callable[[socket.socket, int], bool]


def served(_: socket.socket, __: int) -> bool:
    return True


class Enclave:
    """An attested enclave in a thread; `answer` says how it deals with each request, `greet` with each connection.

    Without `accept` the first session is not confirmed.
    """

    def __init__(self, answer: Answer = rightly, *, accept: bool = True, greet: Greet = served) -> None:
        self._root = DevelopmentRoot.create()
        self._nsm = SoftwareNsm(self._root, PCRS)
        self._key = HpkeKey()
        self._answer = answer
        self._accept = accept
        self._greet = greet
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.closed: list[Notice] = []
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()
        self.sessions = 0

    @property
    def policy(self) -> Policy:
        measurements = Measurements(pcr0=PCRS[0], pcr1=PCRS[1], pcr2=PCRS[2])
        return Policy(measurements=[measurements], extra_roots=[self._root.der])

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            connection.settimeout(10)
            thread = threading.Thread(target=self._serve, args=(connection, self.sessions))
            self.sessions += 1
            self._threads.append(thread)
            thread.start()

    def _attest(self, user_data: bytes, nonce: bytes) -> bytes:
        fields = {"user_data": user_data, "nonce": nonce, "public_key": KEY.public_key().public_bytes_raw()}
        answer: Any = cbor.decode_foreign(self._nsm.handle(cbor.encode({"Attestation": fields})))
        document: bytes = answer["Attestation"]["document"]
        return document

    def _serve(self, connection: socket.socket, number: int) -> None:
        half = EnclaveHandshake(
            key=self._key, model=MANIFEST.digest, config=b"c" * 32, boot=b"b" * 16, manifest=MANIFEST.sign(OWNER)
        )
        try:
            with connection:
                if not self._greet(connection, number):
                    return
                nonce = half.receive_hello(read_frame(connection, limit=1 << 16)[1])
                evidence, document = half.evidence(nonce, attest=self._attest)
                write_all(connection, evidence)
                keys, accept = half.receive_open(read_frame(connection, limit=1 << 16)[1])
                if self._accept or number:
                    write_all(connection, accept)
                opener = Opener(keys.client_to_enclave, keys.session_id)
                session = Session(connection, Sealer(keys.enclave_to_client, keys.session_id), document, number)
                while True:
                    kind, body = read_frame(connection, limit=RECORD_FRAME_BYTES)
                    plaintext = opener.open(kind, body)
                    if kind is FrameType.CLOSE:
                        self.closed.append(Notice.from_bytes(plaintext))
                        return
                    request = Request.from_bytes(plaintext)
                    self.requests.append(request.body)
                    self._answer(session, request)
        except (EphemeralMLError, OSError):
            return

    def close(self) -> None:
        # Wakes the listener; it may be closed already.
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def enclave() -> Iterator[Callable[..., tuple[Enclave, Client]]]:
    """Starts an enclave and a client of it."""
    made: list[tuple[Enclave, Client]] = []

    def make(
        answer: Answer = rightly, *, timeout: float = 5, accept: bool = True, greet: Greet = served
    ) -> tuple[Enclave, Client]:
        enclave = Enclave(answer, accept=accept, greet=greet)
        made.append((enclave, Client(enclave.address, policy=enclave.policy, timeout=timeout)))
        return made[-1]

    yield make
    for one, client in made:
        client.close()
        one.close()


def refused(client: Client, error: type[EphemeralMLError]) -> EphemeralMLError:
    with pytest.raises(error) as caught:
        client.embed(["a text", "another"])
    return caught.value


def test_an_answer_and_a_goodbye(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave()
    with client:
        result = client.embed(["a", "b"])
        assert result.vectors.tolist() == [[1.0] * 4] * 2
        assert result.tokens == 2
        assert "1." not in repr(result)
        second = client.embed(["c"])
    assert EmbedRequest.from_bytes(running.requests[0]).previous is None
    assert EmbedRequest.from_bytes(running.requests[1]).previous == result.receipt.sha256
    assert EmbedRequest.from_bytes(second.request).texts == ("c",)
    running.close()
    assert running.closed == [Notice("closed", "the client is done")]


def test_each_request_has_its_own_nonce_and_salt(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave()
    for _ in range(5):
        client.embed(["same"])
    requests = [EmbedRequest.from_bytes(body) for body in running.requests]
    assert len({request.nonce for request in requests}) == len({request.salt for request in requests}) == 5


def receipt_with(**changes: Any) -> Answer:
    return lambda session, request: session.send(FrameType.RESPONSE, session.right(request, **changes).to_bytes())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": STRANGER}, ReceiptError),
        ({"eat_nonce": b"x" * 32}, ReceiptError),
        ({"model_hash": b"x" * 32}, ReceiptError),
        ({"iat": 1_700_000_000}, ReceiptError),
        ({"request_hash": b"x" * 32}, SessionError),
        ({"response_hash": b"x" * 32}, SessionError),
        ({"attestation_doc_hash": b"x" * 32}, EphemeralMLError),
    ],
)
def test_an_answer_without_its_proof_is_no_answer(
    enclave: Callable[..., tuple[Enclave, Client]], changes: dict[str, Any], error: type[EphemeralMLError]
) -> None:
    running, client = enclave(receipt_with(**changes))
    refused(client, error)
    assert running.sessions == 1


def test_a_changed_answer_is_refused(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    def answer(session: Session, request: Request) -> None:
        right = session.right(request)
        other = EmbedResponse(np.zeros((2, 4), np.float32), 2, b"s" * 16).to_bytes()
        session.send(FrameType.RESPONSE, replace(right, body=other).to_bytes())

    assert refused(enclave(answer)[1], SessionError).code == "receipt.binding"


def test_one_vector_for_each_text(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    def answer(session: Session, request: Request) -> None:
        body = EmbedResponse(np.ones((3, 4), np.float32), 2, b"s" * 16).to_bytes()
        response = Response(request.id, body, session.receipt(request.body, body))
        session.send(FrameType.RESPONSE, response.to_bytes())

    assert refused(enclave(answer)[1], SessionError).code == "response.count"


@pytest.mark.parametrize(
    "answer",
    [
        lambda session, request: session.send(FrameType.RESPONSE, replace(session.right(request), id=9).to_bytes()),
        lambda session, request: session.send(FrameType.REQUEST, request.to_bytes()),
        lambda session, _: session.send(FrameType.RESPONSE, b"garbage"),
        lambda session, _: session.send(FrameType.CLOSE, b"garbage"),
        lambda session, _: write_all(session.socket, encode_frame(FrameType.ALERT, b"garbage")),
        lambda session, _: write_all(session.socket, b"\xff" * 5),
    ],
    ids=["not asked", "a request", "garbage", "garbage close", "garbage alert", "garbage frame"],
)
def test_a_violation_ends_the_session_and_is_not_tried_again(
    enclave: Callable[..., tuple[Enclave, Client]], answer: Answer
) -> None:
    running, client = enclave(answer)
    refused(client, SessionError)
    assert running.sessions == 1


def test_refusals(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    refusals = [Refusal(0, "request.texts", "too many", None), Refusal(0, "busy", "later", 2500)]

    def answer(session: Session, request: Request) -> None:
        if refusals:
            session.send(FrameType.REFUSAL, replace(refusals.pop(0), id=request.id).to_bytes())
        else:
            rightly(session, request)

    running, client = enclave(answer)
    assert refused(client, RequestError).code == "request.texts"
    busy = refused(client, BusyError)
    assert isinstance(busy, BusyError)
    assert busy.retry_after == 2.5
    assert client.embed(["a"]).tokens == 1
    assert running.sessions == 1


@pytest.mark.parametrize("code", ["idle", "lifetime", "restart"])
def test_a_session_that_ends_is_opened_once_more(enclave: Callable[..., tuple[Enclave, Client]], code: str) -> None:
    def answer(session: Session, request: Request) -> None:
        if session.number == 0:
            session.send(FrameType.CLOSE, Notice(code, "over").to_bytes())
        else:
            rightly(session, request)

    running, client = enclave(answer)
    assert client.embed(["a"]).tokens == 1
    assert client.attestations == running.sessions == 2


def test_a_session_that_ends_again_is_an_error(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave(lambda session, _: session.send(FrameType.CLOSE, Notice("idle", "over").to_bytes()))
    assert refused(client, TransportError).code == "session.idle"
    assert running.sessions == 2


def test_a_connection_that_breaks_is_opened_once_more(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave(lambda session, _: session.socket.shutdown(socket.SHUT_RDWR))
    error = refused(client, TransportError)
    assert error.code == "session.lost"
    assert error.__cause__ is not error
    assert running.sessions == 2


def test_a_busy_end_is_busy(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave(lambda session, _: session.send(FrameType.CLOSE, Notice("busy", "full").to_bytes()))
    refused(client, BusyError)
    assert running.sessions == 1


@pytest.mark.parametrize(
    ("code", "error"), [("busy", BusyError), ("unavailable", TransportError), ("open.hpke", SessionError)]
)
def test_alerts(enclave: Callable[..., tuple[Enclave, Client]], code: str, error: type[EphemeralMLError]) -> None:
    alert = encode_frame(FrameType.ALERT, Notice(code, "said").to_bytes())
    _, client = enclave(lambda session, _: write_all(session.socket, alert))
    assert "said" in str(refused(client, error))


# An enclave that is replaced.


def away(*numbers: int, code: str = "unavailable") -> Greet:
    """Turns the connections of these numbers away, as a relay does whose enclave is not running."""

    def greet(connection: socket.socket, number: int) -> bool:
        if number not in numbers:
            return True
        read_frame(connection, limit=1 << 16)
        write_all(connection, encode_frame(FrameType.ALERT, Notice(code, "said").to_bytes()))
        return False

    return greet


def cut(connection: socket.socket, number: int) -> bool:
    """Breaks the first connection, as the kernel does when a listener closes on one it had not accepted."""
    if number == 0:
        connection.shutdown(socket.SHUT_RDWR)
    return number > 0


def once_closed(session: Session, request: Request) -> None:
    """The first session ends for the enclave's restart."""
    if session.number == 0:
        session.send(FrameType.CLOSE, Notice("restart", "over").to_bytes())
    else:
        rightly(session, request)


@pytest.mark.parametrize("greet", [away(0), cut], ids=["unavailable", "cut"])
def test_an_enclave_replaced_during_the_handshake_is_tried_once_more(
    enclave: Callable[..., tuple[Enclave, Client]], greet: Greet
) -> None:
    running, client = enclave(greet=greet)
    assert client.embed(["a"]).tokens == 1
    assert (running.sessions, client.attestations) == (2, 1)


def test_an_enclave_replaced_before_it_confirmed_the_session_is_asked_again(
    enclave: Callable[..., tuple[Enclave, Client]],
) -> None:
    alert = encode_frame(FrameType.ALERT, Notice("unavailable", "said").to_bytes())

    def answer(session: Session, request: Request) -> None:
        if session.number == 0:
            write_all(session.socket, alert)
        else:
            rightly(session, request)

    running, client = enclave(answer, accept=False)
    assert client.embed(["a"]).tokens == 1
    assert running.sessions == client.attestations == 2


@pytest.mark.parametrize(("code", "connections"), [("unavailable", 2), ("busy", 1)])
def test_a_first_session_does_not_wait_for_an_enclave_that_is_away(
    enclave: Callable[..., tuple[Enclave, Client]], code: str, connections: int
) -> None:
    running, client = enclave(greet=away(*range(100), code=code))
    assert refused(client, BusyError).code == code
    assert (running.sessions, client.attestations) == (connections, 0)


@pytest.mark.parametrize("code", ["unavailable", "busy"])
def test_a_session_that_ended_waits_for_the_next_enclave(
    enclave: Callable[..., tuple[Enclave, Client]], code: str
) -> None:
    running, client = enclave(once_closed, greet=away(1, 2, 3, code=code))
    assert client.embed(["a"]).tokens == 1
    assert (running.sessions, client.attestations) == (5, 2)


def test_it_waits_no_longer_than_the_call_may_take(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave(once_closed, greet=away(*range(1, 100)), timeout=1.2)
    start = time.monotonic()
    assert refused(client, BusyError).code == "unavailable"
    assert time.monotonic() - start < 5
    assert running.sessions > 2
    # So does the next call: the enclave was there once.
    refused(client, BusyError)
    # A closed client begins anew.
    client.close()
    before = running.sessions
    refused(client, BusyError)
    assert running.sessions == before + 2


def test_closing_ends_the_wait(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave(once_closed, greet=away(*range(1, 1000)), timeout=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.embed, ["a"])
        while running.sessions < 3:
            assert not waiting.done()
            time.sleep(0.01)
        client.close()
        assert getattr(waiting.exception(20), "code", None) == "session.closed"


def test_another_enclave_is_no_reason_to_try_again(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    """The one that comes back must pass the policy like any other."""
    running, client = enclave(once_closed)
    client.verdict  # noqa: B018 - connects
    running._nsm = SoftwareNsm(running._root, {**PCRS, 0: b"\x55" * 48})
    with pytest.raises(AttestationError) as caught:
        client.embed(["a"])
    assert caught.value.step == "measurements"
    assert running.sessions == 2


def each_gets_its_own(client: Client, count: int) -> None:
    """As many threads as answers, each of another shape."""

    def work(number: int) -> None:
        assert client.embed(["x"] * (number + 1)).vectors.shape == (number + 1, 4)

    assert in_threads(count, work) == []


def test_all_that_is_in_flight_at_the_end_is_asked_again_in_one_new_session(
    enclave: Callable[..., tuple[Enclave, Client]],
) -> None:
    held: list[int] = []

    def answer(session: Session, request: Request) -> None:
        if session.number:
            rightly(session, request)
            return
        held.append(request.id)
        # Some are answered, in the end's own breath.
        if len(held) == 3:
            rightly(session, request)
        if len(held) == 8:
            session.send(FrameType.CLOSE, Notice("restart", "over").to_bytes())

    running, client = enclave(answer)
    with client:
        each_gets_its_own(client, 8)
        assert client.attestations == running.sessions == 2
        assert len(running.requests) == 8 + 7


def test_silence_is_bounded_and_not_tried_again(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave(lambda *_: None, timeout=0.3)
    assert refused(client, TransportError).code == "transport.timeout"
    assert running.sessions == 1


def test_a_request_that_is_not_answered_fails_alone(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    held: list[tuple[Session, Request]] = []

    def answer(session: Session, request: Request) -> None:
        if EmbedRequest.from_bytes(request.body).texts == ("hold",):
            held.append((session, request))
        else:
            rightly(session, request)

    running, client = enclave(answer, timeout=1)
    stop = threading.Event()
    answered: list[int] = []

    def others() -> None:
        while not stop.wait(0.05):
            answered.append(client.embed(["a"]).tokens)

    with client:
        busy = threading.Thread(target=others)
        busy.start()
        with pytest.raises(TransportError) as caught:
            client.embed(["hold"])
        assert caught.value.code == "transport.timeout"
        # The late answer belongs to nobody and harms nobody.
        rightly(*held[0])
        before = len(answered)
        while len(answered) < before + 3:
            assert busy.is_alive()
            time.sleep(0.01)
        stop.set()
        busy.join()
        assert client.attestations == running.sessions == 1


def test_a_host_that_dribbles_is_given_up_in_time(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    def answer(session: Session, request: Request) -> None:
        frame = session.sealer.seal(FrameType.RESPONSE, session.right(request).to_bytes())
        for byte in frame:
            session.socket.sendall(bytes((byte,)))
            time.sleep(0.02)

    _, client = enclave(answer, timeout=0.5)
    start = time.monotonic()
    assert refused(client, TransportError).code == "transport.timeout"
    assert time.monotonic() - start < 5


def test_an_answer_that_comes_over_a_deadline_is_read_on(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    """The first request gives up in the middle of its frame; the second one's answer is the frame after it."""

    def answer(session: Session, request: Request) -> None:
        frame = session.sealer.seal(FrameType.RESPONSE, session.right(request).to_bytes())
        if request.id == 0:
            session.socket.sendall(frame[:300])
            time.sleep(0.8)
            frame = frame[300:]
        session.socket.sendall(frame)

    running, client = enclave(answer, timeout=0.5)
    assert refused(client, TransportError).code == "transport.timeout"
    assert client.embed(["a"]).tokens == 1
    assert running.sessions == 1


def test_answers_kept_back_one_after_the_other_end_the_connection(
    enclave: Callable[..., tuple[Enclave, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_ABANDONED", 1)

    def answer(session: Session, _: Request) -> None:
        # Not silent, and yet of no use.
        with suppress(OSError):
            session.socket.sendall(session.sealer.seal(FrameType.RESPONSE, b"x" * 2000)[:10])

    running, client = enclave(answer, timeout=0.2)
    for _ in range(3):
        assert refused(client, TransportError).code == "transport.timeout"
    assert running.sessions == 2


def test_a_late_receipt_is_the_one_before_the_next_request(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    """The enclave knows the latest receipts only: those that were given up on count too."""
    late: list[bytes] = []

    def answer(session: Session, request: Request) -> None:
        if request.id == 0:
            response = session.right(request)
            late.append(sha256(response.receipt).digest())
            frame = session.sealer.seal(FrameType.RESPONSE, response.to_bytes())
            session.socket.sendall(frame[:10])
            time.sleep(0.6)
            session.socket.sendall(frame[10:])
        elif request.id == 1:
            session.send(FrameType.REFUSAL, Refusal(1, "busy", "later", 1).to_bytes())
        else:
            rightly(session, request)

    running, client = enclave(answer, timeout=0.5)
    assert refused(client, TransportError).code == "transport.timeout"
    refused(client, BusyError)
    client.embed(["a"])
    assert [EmbedRequest.from_bytes(body).previous for body in running.requests] == [None, None, late[0]]


def test_a_chain_that_the_enclave_lost_is_begun_anew(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    def answer(session: Session, request: Request) -> None:
        if session.number == 0:
            session.send(FrameType.REFUSAL, Refusal(request.id, "request.chain", "unknown", None).to_bytes())
        else:
            rightly(session, request)

    running, client = enclave(answer)
    assert client.embed(["a"]).tokens == 1
    assert running.sessions == 2


@pytest.fixture
def silent_host() -> Iterator[str]:
    """Accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_threads_that_wait_for_one_handshake_do_not_wait_in_turn(silent_host: str) -> None:
    client = Client(silent_host, policy=Policy.insecure_any_measurement(), timeout=0.5)
    start = time.monotonic()
    raised = in_threads(10, lambda _: client.embed(["a"]))
    assert [getattr(error, "code", None) for error in raised] == ["transport.timeout"] * 10
    # In turn they would take five seconds.
    assert time.monotonic() - start < 3


def test_a_call_that_began_before_a_close_opens_no_session_after_it(
    enclave: Callable[..., tuple[Enclave, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, client = enclave()
    shaking, go = threading.Event(), threading.Event()
    original = Connection.__init__

    def slowly(self: Connection, *arguments: Any, **options: Any) -> None:
        shaking.set()
        assert go.wait(10)
        original(self, *arguments, **options)

    monkeypatch.setattr(Connection, "__init__", slowly)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.embed, ["a"]) for _ in range(2)]
        assert shaking.wait(10)
        client.close()
        go.set()
        assert [getattr(one.exception(), "code", None) for one in waiting] == ["session.closed"] * 2
    assert running.requests == []
    assert client._connection is None


def test_closing_does_not_wait_for_a_host_that_takes_nothing(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    stop = threading.Event()

    def answer(_: Session, __: Request) -> None:
        stop.wait(20)

    _, client = enclave(answer, timeout=15)
    large = ["x" * 100_000] * 30

    def work() -> None:
        with suppress(EphemeralMLError):
            client.embed(large)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    start = time.monotonic()
    client.close()
    assert time.monotonic() - start < 5
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    stop.set()


@pytest.mark.parametrize("timeout", [None, 0, -1, float("nan"), float("inf"), 1e7, "30"])
def test_a_timeout_that_cannot_work_is_refused_at_once(timeout: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client("tcp://127.0.0.1:1", policy=Policy.insecure_any_measurement(), timeout=timeout)
    assert caught.value.code == "client.timeout"


def test_closing_does_not_wait_for_a_silent_host(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        client = Client(address, policy=Policy.insecure_any_measurement(), timeout=20)
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(client.embed, ["a"])
            silent, _ = server.accept()
            start = time.monotonic()
            client.close()
            assert time.monotonic() - start < 5
            silent.close()
            assert isinstance(connecting.exception(10), EphemeralMLError)


def test_a_result_says_what_it_is_worth(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave()
    result = client.embed(["a", "b"])
    assert result.verdict is client.verdict
    assert not result.confidential
    assert str(result) == (
        "2 vectors of 4, 2 tokens; platform local, not confidential: a development root signed it, not AWS"
    )
    anything = Policy.insecure_any_measurement(extra_roots=running.policy.extra_roots)
    with Client(running.address, policy=anything) as trusting:
        assert "accepts any measurement" in str(trusting.embed(["a"]))


def test_an_answer_before_the_confirmation_is_refused(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    _, client = enclave(accept=False)
    assert refused(client, SessionError).code == "handshake.order"


def test_nothing_is_sent_to_another_enclave(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, _ = enclave()
    good = running.policy.measurements[0]
    wrong = Measurements(pcr0=b"\x55" * 48, pcr1=good.pcr1, pcr2=good.pcr2)
    policy = Policy(measurements=[wrong], extra_roots=running.policy.extra_roots)
    client = Client(running.address, policy=policy)
    for action in (lambda: client.embed(["a secret"]), lambda: client.verdict, client.__enter__):
        with pytest.raises(AttestationError):
            action()
    assert running.requests == []
    assert client.attestations == 0


def test_answers_in_any_order_find_their_threads(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    held: list[Request] = []

    def answer(session: Session, request: Request) -> None:
        held.append(request)
        if len(held) == 4:
            for one in reversed(held):
                rightly(session, one)

    _, client = enclave(answer)
    with client:
        each_gets_its_own(client, 4)


def test_an_interrupted_request_does_not_spoil_the_next(
    enclave: Callable[..., tuple[Enclave, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = enclave()
    client.embed(["a"])

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FrameReader, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.embed(["b"])
    assert client.embed(["c"]).tokens == 1
    assert client.attestations == 2


def test_a_request_that_no_enclave_would_read_is_not_sent(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    running, client = enclave()
    with pytest.raises(RequestError) as caught:
        client.embed(["x" * 1024 * 1024] * 5)
    assert caught.value.code == "request.size"
    assert running.requests == []
    assert client.embed(["a"]).tokens == 1
    assert client.attestations == 1


def test_a_closed_client_wakes_those_who_wait(enclave: Callable[..., tuple[Enclave, Client]]) -> None:
    asked = threading.Event()
    running, client = enclave(lambda *_: asked.set())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.embed, ["a"])
        assert asked.wait(5)
        client.close()
        assert getattr(waiting.exception(5), "code", None) == "session.closed"
    assert running.sessions == 1


def test_addresses_are_checked_at_once(tmp_path: Path) -> None:
    policy = Policy.insecure_any_measurement()
    with pytest.raises(ConfigurationError):
        Client("http://example.com", policy=policy)
    with pytest.raises(TransportError) as caught:
        Client(f"unix://{tmp_path}/none", policy=policy).embed(["a"])
    assert caught.value.code == "transport.unreachable"


def test_a_web_server_in_place_of_a_relay_is_called_one() -> None:
    with AppServer(Starlette(), bind("127.0.0.1", 0, service="web"), service="web") as web:
        client = Client(web.url.replace("http", "tcp"), policy=Policy.insecure_any_measurement())
        with pytest.raises(SessionError) as caught:
            client.embed(["a"])
    assert caught.value.code == "frame.http"
