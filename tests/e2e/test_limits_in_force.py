"""The limits of the configuration in a running enclave, and what it holds for those who press against them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from frames import read_frame
from sealed import PATIENCE, Session

from ephemeralml.client import Client
from ephemeralml.errors import BusyError, TransportError
from ephemeralml.session.blocking import write_all
from ephemeralml.session.frames import FrameType
from ephemeralml.session.handshake import ClientHandshake
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES
from ephemeralml.session.messages import Notice, Refusal, Request
from ephemeralml.session.transport import Address, connect

from .conftest import Deployment

MIB = 1024 * 1024


Deploy = Callable[[Path, Path, dict[str, int]], AbstractContextManager[Deployment]]


# Key rotation.


def test_a_rotated_key_is_shown_to_the_next_and_the_handshakes_under_way_keep_theirs(
    tmp_path: Path, tiny_model: Path, deploy: Deploy
) -> None:
    with deploy(tmp_path, tiny_model, {"key_rotation_seconds": 1}) as deployment, ExitStack() as stack:
        before = stack.enter_context(Session(deployment)).open()
        begun = stack.enter_context(Session(deployment))
        time.sleep(1.5)
        after = stack.enter_context(Session(deployment))
        assert after.hpke_public_key != begun.hpke_public_key
        expected = deployment.encoder.encode(["a text"])
        # `begun` seals to the key it was shown, which no new connection is shown any more.
        for session in (before, begun.open(), after.open()):
            np.testing.assert_allclose(session.embed("a text"), expected, atol=1e-5)


def test_a_young_key_is_shown_to_everybody(deployed: Deployment) -> None:
    with Session(deployed) as first, Session(deployed) as second:
        assert first.hpke_public_key == second.hpke_public_key


# Lifetime.


def test_sessions_end_at_their_lifetime_and_a_client_loses_no_request(
    tmp_path: Path, tiny_model: Path, deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        deploy(tmp_path, tiny_model, {"lifetime_seconds": 2}) as deployment,
        Session(deployment).open() as session,
        deployment.client() as client,
    ):
        start = time.monotonic()
        expected = deployment.encoder.encode(["a text"])
        # Busy all the time: that prolongs nothing.
        with caplog.at_level(logging.WARNING, "ephemeralml.client"):
            while client.attestations < 3:
                np.testing.assert_allclose(client.embed(["a text"]).vectors, expected, atol=1e-5)
                assert time.monotonic() - start < PATIENCE, "the session outlived its lifetime"
                time.sleep(0.05)
        assert time.monotonic() - start > 2
        assert caplog.text.count("attesting again") == 2
        kind, plaintext = session.receive()
        assert kind is FrameType.CLOSE
        assert Notice.from_bytes(plaintext).code == "lifetime"
        assert session.ended()


# Connections.


def test_one_connection_too_many_is_busy_until_another_leaves(tmp_path: Path, tiny_model: Path, deploy: Deploy) -> None:
    with deploy(tmp_path, tiny_model, {"connections": 3}) as deployment, ExitStack() as stack:
        clients = [stack.enter_context(deployment.client()) for _ in range(3)]
        for client in clients:
            client.embed(["a text"])
        with connect(Address.parse(deployment.address), timeout=PATIENCE) as connection:
            kind, body = read_frame(connection, limit=HANDSHAKE_FRAME_BYTES)
            assert (kind, Notice.from_bytes(body).code) == (FrameType.ALERT, "busy")
            assert connection.recv(1) == b""
        # One who speaks after the refusal hears it all the same.
        with connect(Address.parse(f"unix://{deployment.package.parent}/enclave"), timeout=PATIENCE) as connection:
            time.sleep(0.2)
            write_all(connection, ClientHandshake().hello())
            assert read_frame(connection, limit=HANDSHAKE_FRAME_BYTES) == (kind, body)
            assert connection.recv(1) == b""
        fourth = deployment.client()
        for _ in range(3):
            with pytest.raises(BusyError) as caught:
                fourth.embed(["a text"])
            assert caught.value.code == "busy"
            assert caught.value.retry_after > 0
        # Those turned away took no place, and nothing from those who have one.
        for client in clients:
            client.embed(["a text"])
            assert client.attestations == 1
        clients[0].close()
        _served_at_last(fourth)
        with pytest.raises(BusyError):
            clients[0].embed(["a text"])
        fourth.close()
        _served_at_last(clients[0])


def _served_at_last(client: Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert client.embed(["a text"]).vectors.shape == (1, 32)
        except BusyError:
            assert time.monotonic() < deadline, "a place that was left is not given again"
            time.sleep(0.05)
        else:
            return


# Memory and time.


def test_refusals_that_nobody_reads_do_not_pile_up(tmp_path: Path, tiny_model: Path, deploy: Deploy) -> None:
    limits = {"requests_in_flight": 32, "session_bytes": 2 * MIB, "total_bytes": 64 * MIB}
    with deploy(tmp_path, tiny_model, limits) as deployment, ExitStack() as stack:
        with deployment.client() as client:
            client.embed(["warm"] * 500)
        # Straight to the enclave, as a hostile host would: nothing on the way takes what is not read.
        enclave = f"unix://{deployment.package.parent}/enclave"
        sessions = [stack.enter_context(Session(deployment, enclave)).open() for _ in range(8)]
        before = deployment.enclave_rss
        highest = before
        outcomes: list[str] = []

        def flood(number: int) -> None:
            session = sessions[number]
            session.connection.settimeout(2)
            try:
                # Refused at once and small, until its refusals fill what lies between;
                for index in range(120):
                    session.send(Request(index, b"no request").to_bytes())
                # then large, far more of them than may be in flight.
                for index in range(400):
                    session.send(Request(index, bytes(MIB // 2 - 100)).to_bytes())
                outcomes.append("everything was read")
            except TransportError as error:
                outcomes.append(error.code)

        threads = [threading.Thread(target=flood, args=(number,)) for number in range(len(sessions))]
        for thread in threads:
            thread.start()
        with deployment.client() as client:
            answers = 0
            while any(thread.is_alive() for thread in threads):
                assert client.embed(["a text"]).vectors.shape == (1, 32)
                answers += 1
                highest = max(highest, deployment.enclave_rss)
                time.sleep(0.02)
        assert answers > 0
        # Nothing more is read from those who read nothing.
        assert outcomes == ["transport.timeout"] * len(sessions)
        assert highest - before < 64 * MIB
        assert deployment.enclave.process.poll() is None


@cache
def colliding_map() -> bytes:
    """A CBOR map that costs a CPython dict the square of its keys: ten seconds and more."""
    bits, direct, late = 18, 110_000, 20_000
    mask = (1 << bits) - 1
    # Where every probe sequence goes once the hash's high bits are used up; `direct` keys fill a stretch of it.
    stretch = np.empty(direct, np.int64)
    slot = 1
    for index in range(direct):
        stretch[index] = slot
        slot = (5 * slot + 1) & mask
    taken = np.zeros(1 << bits, bool)
    taken[stretch] = True
    # Keys whose first probes all meet the stretch walk along it to its end.
    keys = np.arange(1 << bits, 1 << 21, dtype=np.int64)
    slots, perturb, collides = keys & mask, keys.copy(), taken[keys & mask]
    for _ in range(5):
        perturb >>= 5
        slots = (5 * slots + perturb + 1) & mask
        collides &= taken[slots]
    chosen = np.concatenate([stretch, keys[collides][:late]])
    assert len(chosen) == direct + late
    entries = np.zeros(len(chosen), [("head", "u1"), ("key", ">u4"), ("null", "u1")])
    entries["head"], entries["key"], entries["null"] = 0x1A, chosen, 0xF6
    return b"\xba" + len(chosen).to_bytes(4) + entries.tobytes()


@pytest.mark.parametrize("nested", [False, True], ids=["in place of the request", "as its body"])
def test_keys_chosen_to_collide_cost_nobody_any_time(deployed: Deployment, *, nested: bool) -> None:
    attack = Request(7, colliding_map()).to_bytes() if nested else colliding_map()
    with ExitStack() as stack, deployed.client(timeout=5) as client:
        client.embed(["before"])
        sessions = [stack.enter_context(Session(deployed)).open() for _ in range(3)]
        start = time.monotonic()
        for session in sessions:
            session.send(attack)
        # A client that waits five seconds at most is served at once.
        for _ in range(3):
            client.embed(["meanwhile"])
        for session in sessions:
            kind, body = session.receive()
            if nested:
                refusal = Refusal.from_bytes(body)
                assert (kind, refusal.id, refusal.code) == (FrameType.REFUSAL, 7, "message.malformed")
            else:
                assert (kind, Notice.from_bytes(body).code) == (FrameType.ALERT, "message.malformed")
                assert session.ended()
        assert time.monotonic() - start < 10
        assert client.attestations == 1
