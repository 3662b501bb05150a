"""The vsock device between a guest's driver and the host's Unix sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vhost_front_end import GUEST, SECONDS, SIZE, FrontEnd, open_files, running
from vsock_driver import CID, Driver, listening_path

from ephemeralml.devcloud.vhost import DeviceViolationError, VsockDevice
from ephemeralml.devcloud.vhost import vsock as device
from ephemeralml.devcloud.vhost.packet import NO_RECEIVE, NO_SEND, Operation, Packet
from ephemeralml.devcloud.vhost.stream import ALLOCATED
from ephemeralml.session.sockets import bound
from ephemeralml.session.transport import Address, connect

OWN, PEER = 1234, 5001


class Vsock:
    def __init__(self, folder: Path, violations: list[DeviceViolationError]) -> None:
        self.path = folder / "vsock"
        self.back_end = folder / "vhost"
        self.violations = violations

    @contextmanager
    def driver(self, *, rooms: int = 32) -> Iterator[Driver]:
        with FrontEnd(self.back_end) as front_end:
            yield Driver(front_end, rooms=rooms)

    @contextmanager
    def host(self, port: int = PEER) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(SECONDS)
            path = listening_path(self.path, port)
            listener.bind(str(path))
            listener.listen(1024)
            try:
                yield listener
            finally:
                path.unlink()

    @contextmanager
    def joined(self, *, rooms: int = 32) -> Iterator[tuple[Driver, socket.socket]]:
        """A connection that the guest has opened."""
        with self.driver(rooms=rooms) as driver, self.host() as listener:
            driver.call(OWN, PEER)
            with accepted(listener) as connection:
                yield driver, connection


def accepted(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(SECONDS)
    return connection


@contextmanager
def served(folder: Path) -> Iterator[Vsock]:
    def make() -> VsockDevice:
        listener = bound(Address("unix", path=str(folder / "vsock")))
        listener.listen(64)
        return VsockDevice(cid=CID, path=folder / "vsock", listener=listener)

    with running(make, folder / "vhost") as violations:
        yield Vsock(folder, violations)


@pytest.fixture
def vsock(tmp_path: Path) -> Iterator[Vsock]:
    with served(tmp_path) as found:
        yield found


def test_the_configuration_is_the_cid_of_the_guest(vsock: Vsock) -> None:
    with FrontEnd(vsock.back_end) as front_end:
        asked = (0).to_bytes(4, "little") + (8).to_bytes(4, "little") + bytes(4) + bytes(8)
        assert front_end.ask(24, asked)[12:] == CID.to_bytes(8, "little")


@pytest.mark.parametrize("cid", [2, 3])
def test_a_guest_calls_the_host_by_either_of_its_cids(vsock: Vsock, cid: int) -> None:
    with vsock.driver() as driver, vsock.host() as listener:
        assert driver.call(OWN, PEER, cid=cid).source == cid
        with accepted(listener) as connection:
            driver.send(Operation.RW, OWN, PEER, b"from the guest", cid=cid)
            assert connection.recv(100) == b"from the guest"
            connection.sendall(b"from the host")
            packet, data = driver.next()
            assert (packet.operation, packet.source, data) == (Operation.RW, cid, b"from the host")


def test_a_guest_that_calls_where_nobody_listens_is_refused(vsock: Vsock) -> None:
    with vsock.driver() as driver:
        driver.send(Operation.REQUEST, OWN, PEER)
        driver.expect(Operation.RST, OWN, PEER)


def test_a_guest_that_calls_another_guest_is_refused(vsock: Vsock) -> None:
    with vsock.driver() as driver, vsock.host():
        driver.send(Operation.REQUEST, OWN, PEER, cid=8)
        driver.expect(Operation.RST, OWN, PEER)


def test_a_kind_of_socket_that_is_not_offered_is_refused(vsock: Vsock) -> None:
    with vsock.driver() as driver, vsock.host():
        driver.send(Operation.REQUEST, OWN, PEER, kind=2)
        assert driver.expect(Operation.RST, OWN, PEER).kind == 2


def test_a_packet_in_another_guests_name_is_dropped(vsock: Vsock) -> None:
    with vsock.driver() as driver, vsock.host():
        driver.send(Operation.REQUEST, OWN, PEER, source=8)
        driver.send(Operation.RW, OWN + 1, PEER)
        driver.expect(Operation.RST, OWN + 1, PEER)


def test_the_host_calls_the_guest(vsock: Vsock) -> None:
    with vsock.driver() as driver:
        found: list[socket.socket] = []
        address = Address("vsock+unix", path=str(vsock.path), port=5000)
        caller = threading.Thread(target=lambda: found.append(connect(address, timeout=SECONDS)))
        caller.start()
        request, _ = driver.next()
        assert (request.operation, request.source, request.destination_port) == (Operation.REQUEST, 3, 5000)
        driver.send(Operation.RESPONSE, 5000, request.source_port)
        caller.join()
        with found[0] as connection:
            connection.sendall(b"hello")
            assert driver.next()[1] == b"hello"
            driver.send(Operation.RW, 5000, request.source_port, b"hello yourself")
            assert connection.recv(100) == b"hello yourself"


def test_a_host_that_calls_where_the_guest_does_not_listen_is_hung_up_on(vsock: Vsock) -> None:
    with vsock.driver() as driver, socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(SECONDS)
        caller.connect(str(vsock.path))
        caller.sendall(b"CONNECT 5000\n")
        request, _ = driver.next()
        driver.send(Operation.RST, 5000, request.source_port)
        assert caller.recv(1) == b""


@pytest.mark.parametrize("line", [b"CONNECT\n", b"CONNECT 4294967295\n", b"x" * 64, b"GET / HTTP/1.1\r\n\r\n"])
def test_a_caller_who_asks_for_nothing_is_hung_up_on(vsock: Vsock, line: bytes) -> None:
    with vsock.driver(), socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(SECONDS)
        caller.connect(str(vsock.path))
        caller.sendall(line)
        with suppress(ConnectionResetError):
            assert caller.recv(1) == b""


# Credit.


def test_the_guest_gets_credit_early(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        driver.send(Operation.RW, OWN, PEER, bytes(32 * 1024))
        packet, _ = driver.next(skip=())
        assert (packet.operation, packet.allocated, packet.forwarded) == (
            Operation.CREDIT_UPDATE,
            ALLOCATED,
            32 * 1024,
        )
        assert len(connection.recv(ALLOCATED, socket.MSG_WAITALL)) >= 1


def test_credit_is_told_when_asked_for(vsock: Vsock) -> None:
    with vsock.joined() as (driver, _):
        driver.send(Operation.RW, OWN, PEER, b"12345")
        driver.send(Operation.CREDIT_REQUEST, OWN, PEER)
        packet, _ = driver.next(skip=())
        assert (packet.operation, packet.forwarded) == (Operation.CREDIT_UPDATE, 5)


def test_what_the_host_does_not_take_is_not_called_forwarded_and_more_than_credit_ends_it(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = forwarded = 0
        while sent - forwarded + 16384 <= ALLOCATED:
            driver.send(Operation.RW, OWN, PEER, bytes(16384))
            sent += 16384
            driver.poll()
            forwarded = max([forwarded, *(packet.forwarded for packet, _ in driver.packets)])
        driver.send(Operation.CREDIT_REQUEST, OWN, PEER)
        packet, _ = driver.next(skip=())
        while packet.operation == Operation.CREDIT_UPDATE and driver.packets:
            packet, _ = driver.next(skip=())
        assert packet.operation == Operation.CREDIT_UPDATE
        assert 0 < sent - packet.forwarded <= ALLOCATED
        # As much again is more than it was allowed.
        for _ in range(ALLOCATED // 16384 + 1):
            driver.send(Operation.RW, OWN, PEER, bytes(16384))
        driver.expect(Operation.RST, OWN, PEER)


def test_no_more_is_sent_than_the_guest_has_room_for(vsock: Vsock) -> None:
    with vsock.driver() as driver, vsock.host() as listener:
        driver.send(Operation.REQUEST, OWN, PEER, room=10)
        driver.expect(Operation.RESPONSE, OWN, PEER)
        with accepted(listener) as connection:
            connection.sendall(b"0123456789abcdef")
            assert driver.next()[1] == b"0123456789"
            driver.front_end.settle()
            driver.poll()
            assert not driver.packets
            driver.send(Operation.CREDIT_UPDATE, OWN, PEER, room=10, forwarded=4)
            assert driver.next()[1] == b"abcd"


def test_a_guest_that_claims_to_have_used_more_than_it_got_gets_nothing(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        driver.send(Operation.CREDIT_UPDATE, OWN, PEER, forwarded=1000)
        driver.front_end.settle()
        connection.sendall(b"not now")
        driver.front_end.settle()
        driver.poll()
        assert not driver.packets
        driver.send(Operation.CREDIT_UPDATE, OWN, PEER, forwarded=0)
        assert driver.next()[1] == b"not now"


# Ends.


def test_a_guest_that_sends_no_more_still_receives(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        driver.send(Operation.RW, OWN, PEER, b"last words")
        driver.send(Operation.SHUTDOWN, OWN, PEER, flags=NO_SEND)
        assert connection.recv(100) == b"last words"
        assert connection.recv(1) == b""
        connection.sendall(b"an answer")
        assert driver.next()[1] == b"an answer"


def test_a_host_that_sends_no_more_still_receives(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert driver.next()[1] == b"last words"
        assert driver.expect(Operation.SHUTDOWN, OWN, PEER).flags == NO_SEND
        driver.send(Operation.RW, OWN, PEER, b"an answer")
        assert connection.recv(100) == b"an answer"


def test_a_guest_that_receives_no_more_still_sends(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        driver.send(Operation.SHUTDOWN, OWN, PEER, flags=NO_RECEIVE)
        driver.send(Operation.RW, OWN, PEER, b"still here")
        assert connection.recv(100) == b"still here"
        with pytest.raises(BrokenPipeError):
            connection.sendall(b"in vain")


def test_a_guest_that_closes_may_use_its_port_again_while_the_host_reads_the_rest(vsock: Vsock) -> None:
    with vsock.driver() as driver, vsock.host() as listener:
        driver.call(OWN, PEER)
        with accepted(listener) as connection:
            data = os.urandom(100 * 1024)
            for at in range(0, len(data), 20 * 1024):
                driver.send(Operation.RW, OWN, PEER, data[at : at + 20 * 1024])
            driver.send(Operation.SHUTDOWN, OWN, PEER, flags=NO_RECEIVE | NO_SEND)
            driver.expect(Operation.RST, OWN, PEER)
            driver.call(OWN, PEER)
            assert connection.recv(len(data), socket.MSG_WAITALL) == data
            assert connection.recv(1) == b""


def test_data_after_the_announced_end_ends_all(vsock: Vsock) -> None:
    with vsock.joined() as (driver, _):
        driver.send(Operation.SHUTDOWN, OWN, PEER, flags=NO_SEND)
        driver.send(Operation.RW, OWN, PEER, b"more")
        driver.expect(Operation.RST, OWN, PEER)


def test_a_reset_of_the_guests_cuts_the_host_off(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        driver.send(Operation.RST, OWN, PEER)
        assert connection.recv(1) == b""


def test_a_host_that_went_away_resets_a_guest_that_writes(vsock: Vsock) -> None:
    with vsock.joined() as (driver, connection):
        connection.close()
        driver.expect(Operation.SHUTDOWN, OWN, PEER)
        driver.send(Operation.RW, OWN, PEER, b"anybody there")
        driver.expect(Operation.RST, OWN, PEER)


@pytest.mark.parametrize("operation", [Operation.REQUEST, Operation.RESPONSE, 0, 8, 65535])
def test_an_operation_out_of_place_resets_the_connection(vsock: Vsock, operation: int) -> None:
    with vsock.joined() as (driver, connection):
        driver.send(operation, OWN, PEER)
        driver.expect(Operation.RST, OWN, PEER)
        assert connection.recv(1) == b""


def test_a_guest_that_boots_again_finds_no_connection_of_before(vsock: Vsock) -> None:
    with vsock.driver() as driver, vsock.host() as listener:
        driver.call(OWN, PEER)
        with accepted(listener) as connection:
            driver.front_end.stop(0)
            driver.front_end.stop(1)
            assert connection.recv(1) == b""
        driver.start()
        driver.send(Operation.RW, OWN, PEER, b"I know you")
        driver.expect(Operation.RST, OWN, PEER)
        driver.call(OWN, PEER)
        with accepted(listener) as connection:
            driver.send(Operation.RW, OWN, PEER, b"anew")
            assert connection.recv(100) == b"anew"


def test_the_next_machine_at_the_same_back_end_begins_anew(vsock: Vsock) -> None:
    with vsock.joined() as (_, connection):
        pass
    assert connection.fileno() == -1
    with vsock.joined() as (driver, connection):
        driver.send(Operation.RW, OWN, PEER, b"anew")
        assert connection.recv(100) == b"anew"


# Much.


def test_megabytes_both_ways_at_once_arrive_whole(vsock: Vsock) -> None:
    size = 10 << 20
    there, back = os.urandom(size), os.urandom(size)
    with vsock.joined() as (driver, connection):
        connection.settimeout(60)
        received = bytearray()

        def host() -> None:
            writer = threading.Thread(target=connection.sendall, args=(back,))
            writer.start()
            while len(received) < size:
                received.extend(connection.recv(1 << 16))
            writer.join()

        peer = threading.Thread(target=host)
        peer.start()
        sent = forwarded = 0
        got = bytearray()
        while sent < size or len(got) < size:
            driver.poll()
            while driver.packets:
                packet, data = driver.packets.popleft()
                assert packet.operation in {Operation.RW, Operation.CREDIT_UPDATE}
                forwarded = packet.forwarded
                got += data
                if data and len(got) % (64 * 1024) < len(data):
                    driver.send(Operation.CREDIT_UPDATE, OWN, PEER, forwarded=len(got))
            piece = there[sent : sent + 16 * 1024]
            if piece and sent - forwarded + len(piece) <= ALLOCATED:
                driver.send(Operation.RW, OWN, PEER, piece, forwarded=len(got))
                sent += len(piece)
        peer.join()
        assert got == back
        assert received == there


def test_each_of_many_connections_has_its_turn(vsock: Vsock) -> None:
    # Few rooms, so that all have something to say before the first has said it all.
    with vsock.driver(rooms=4) as driver, vsock.host() as listener:
        connections = []
        for own in range(8):
            driver.call(own, PEER)
            connections.append(accepted(listener))
        for connection in connections:
            connection.sendall(bytes(60 * 1024))
        got = dict.fromkeys(range(8), 0)
        while sum(got.values()) < 8 * 60 * 1024:
            packet, data = driver.next()
            got[packet.destination_port] += len(data)
            # Nobody is a whole message ahead of the last.
            assert max(got.values()) - min(got.values()) < 60 * 1024 or sum(got.values()) < 60 * 1024
        for connection in connections:
            connection.close()


def test_answers_that_the_guest_does_not_fetch_are_bounded_and_its_packets_wait(vsock: Vsock) -> None:
    with vsock.driver(rooms=0) as driver:
        sent = 0
        for own in range(device.MAX_REPLIES + 100):
            driver.front_end.settle() if driver.sending.room < 2 else None
            driver.sending.back()
            if not driver.sending.room:
                break
            driver.send(Operation.RW, own, PEER)
            sent += 1
        driver.front_end.settle()
        driver.sending.back()
        assert device.MAX_REPLIES <= sent < device.MAX_REPLIES + 100
        assert driver.sending.room == 0
        # With rooms for them all of it comes after all.
        driver.offer(32)
        for own in range(sent):
            driver.expect(Operation.RST, own, PEER)


def test_connections_are_bounded(vsock: Vsock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MAX_STREAMS", 3)
    with vsock.driver() as driver, vsock.host() as listener:
        connections = []
        for own in range(3):
            driver.call(own, PEER)
            connections.append(accepted(listener))
        driver.send(Operation.REQUEST, 3, PEER)
        driver.expect(Operation.RST, 3, PEER)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(SECONDS)
            caller.connect(str(vsock.path))
            assert caller.recv(1) == b""
        driver.send(Operation.RST, 0, PEER)
        driver.call(3, PEER)
        for connection in [*connections, accepted(listener)]:
            connection.close()


# Attacks.


def short(driver: Driver) -> None:
    driver.sending.offer(bytes(43))


def longer_than_it_is(driver: Driver) -> None:
    driver.send(Operation.RW, OWN, PEER, b"x", length=2)


def longest(driver: Driver) -> None:
    driver.send(Operation.RW, OWN, PEER, b"x", length=2**32 - 1)


def with_room(driver: Driver) -> None:
    driver.sending.offer(bytes(44), 16)


def without_room(driver: Driver) -> None:
    driver.receiving.offer(44)
    driver.receiving.kick()
    driver.send(Operation.RW, OWN, PEER)


def more_than_all_credit(driver: Driver) -> None:
    driver.sending.raw(0, driver.sending.address(0), 44, 1, 1)
    driver.sending.raw(1, GUEST, ALLOCATED + 1, 0)
    driver.sending.publish(0)


def more_than_the_ring(driver: Driver) -> None:
    header = bytes(Packet(source=CID, destination=3, source_port=OWN, destination_port=PEER, operation=Operation.RST))
    driver.sending.buffer(0, len(header))[:] = header
    driver.sending.raw(0, driver.sending.address(0), len(header), 0)
    driver.sending.publish(0, count=SIZE + 1)


@pytest.mark.parametrize(
    "attack", [more_than_the_ring, short, longer_than_it_is, longest, with_room, without_room, more_than_all_credit]
)
def test_a_packet_that_is_none_ends_the_device_until_it_is_set_up_again(vsock: Vsock, attack: object) -> None:
    assert callable(attack)
    with vsock.driver(rooms=0) as driver, vsock.host() as listener:
        attack(driver)
        driver.sending.kick()
        driver.front_end.settle()
        assert [error.code for error in vsock.violations] == ["vhost.ring"]
        driver.front_end.stop(0)
        driver.front_end.stop(1)
        driver.start()
        driver.call(OWN, PEER)
        accepted(listener).close()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vsock]:
    with served(tmp_path_factory.mktemp("vsock")) as found:
        yield found


@settings(max_examples=100)
@given(
    packets=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 3),
            st.integers(PEER - 1, PEER + 1),
            st.binary(max_size=300),
            st.integers(0, 7),
            st.integers(1, 4),
            st.one_of(st.integers(0, 100), st.integers(0, 2**32 - 1)),
            st.one_of(st.integers(0, 100), st.integers(0, 2**32 - 1)),
        ),
        max_size=20,
    )
)
def test_any_packets_in_any_order_leave_the_device_alive(
    attacked: Vsock, packets: list[tuple[int, int, int, bytes, int, int, int, int]]
) -> None:
    with attacked.driver() as driver, attacked.host() as listener:
        for operation, own, peer, data, flags, cid, room, forwarded in packets:
            driver.send(operation, own, peer, data, flags=flags, cid=cid, room=room, forwarded=forwarded)
        driver.front_end.settle()
        driver.poll()
        driver.packets.clear()
        listener.setblocking(False)
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
        listener.settimeout(SECONDS)
        driver.send(Operation.REQUEST, OWN, PEER)
        while driver.next()[0].destination_port != OWN:
            pass
        accepted(listener).close()
    assert not attacked.violations


@given(data=st.binary(min_size=44, max_size=44))
def test_a_header_is_read_as_it_is_written(data: bytes) -> None:
    assert bytes(Packet.parse(data)) == data


def test_no_descriptor_stays_open(vsock: Vsock) -> None:
    with vsock.joined():
        pass
    counts = []
    for _ in range(10):
        with vsock.joined() as (driver, connection):
            connection.sendall(b"x")
            driver.next()
            counts.append(open_files())
    assert len(set(counts)) == 1
