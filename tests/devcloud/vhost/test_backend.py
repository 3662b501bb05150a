"""The vhost-user back-end between a front-end and a guest that follow the specification, and some that do not."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vhost_front_end import (
    GUEST,
    INDIRECT,
    MEMORY,
    NEXT,
    SECONDS,
    SIZE,
    USER,
    WRITE,
    FrontEnd,
    Ring,
    open_files,
    running,
)

from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.devcloud.vhost import DeviceViolationError, NsmDevice

ROOM = 0x3000
DESCRIBE = cbor.encode("DescribeNSM")
ROOT = DevelopmentRoot.create()


class Served:
    def __init__(self, path: Path, violations: list[DeviceViolationError]) -> None:
        self.path = path
        self.violations = violations

    def ready(self, front_end: FrontEnd) -> Ring:
        front_end.negotiate()
        front_end.share()
        return front_end.start(0)


@pytest.fixture
def nsm(tmp_path: Path) -> Iterator[Served]:
    path = tmp_path / "nsm"
    with running(lambda: NsmDevice(SoftwareNsm(ROOT, {0: bytes(range(48))})), path) as violations:
        yield Served(path, violations)


def ask(ring: Ring, request: bytes) -> bytes:
    """As Linux's driver does: two buffers, of which it expects both back with the first event."""
    first, second = ring.offer(request), offer_room(ring)
    ring.kick()
    (one, nothing), (other, answer) = ring.used()
    assert (one, nothing, other) == (first, b"", second)
    return answer


def offer_room(ring: Ring) -> int:
    return ring.offer(0x1000, 0x1000, 0x1000)


def describe(ring: Ring) -> None:
    """A request and room for its answer, not waited for."""
    ring.offer(DESCRIBE)
    offer_room(ring)
    ring.kick()


def test_a_request_and_its_answer_come_back_at_once_and_in_order(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        for _ in range(3 * SIZE):
            described = cbor.decode_foreign(ask(ring, DESCRIBE), limit=ROOM)
            assert isinstance(described, dict)
            assert "DescribeNSM" in described
    assert not nsm.violations


def test_a_request_of_the_longest_kind_is_answered_and_a_longer_one_is_not(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        assert cbor.decode_foreign(ask(ring, bytes(0x1000)), limit=ROOM) == {"Error": "InvalidArgument"}
        ring.offer(bytes(0x1000), b"x")
        offer_room(ring)
        ring.kick()
        front_end.settle()
    assert [error.code for error in nsm.violations] == ["vhost.ring"]


def test_half_a_request_waits_for_its_room(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        ring.offer(DESCRIBE)
        ring.kick()
        front_end.settle()
        assert ring.back() == []
        offer_room(ring)
        ring.kick()
        assert len(ring.used()) == 2


def test_a_ring_is_served_only_while_it_is_enabled(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.negotiate()
        front_end.share()
        ring = front_end.start(0, enable=False)
        describe(ring)
        assert ring.used(wait=0.2) == []
        front_end.enable(0)
        assert len(ring.used()) == 2
        front_end.enable(0, False)
        describe(ring)
        assert ring.used(wait=0.2) == []
        # What was kicked meanwhile is served without another kick.
        front_end.enable(0)
        assert len(ring.used()) == 2


def test_another_call_descriptor_is_told_of_what_was_done_before_it_came(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        describe(ring)
        front_end.settle()
        # Nobody looked at the first event: QEMU changes it while the guest masks its interrupt.
        ring.called = front_end.event()
        front_end.acknowledged(13, struct.pack("<Q", 0), (ring.called,))
        assert len(ring.used()) == 2
        ask(ring, DESCRIBE)


def test_a_ring_without_a_call_descriptor_is_served_and_told_later(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        front_end.acknowledged(13, struct.pack("<Q", 0x100))
        describe(ring)
        front_end.settle()
        ring.called = front_end.event()
        front_end.acknowledged(13, struct.pack("<Q", 0), (ring.called,))
        assert len(ring.used()) == 2


def test_another_kick_descriptor_takes_the_place_of_the_first(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        ring.kicked = front_end.event()
        front_end.acknowledged(12, struct.pack("<Q", 0), (ring.kicked,))
        ask(ring, DESCRIBE)


def test_a_stopped_ring_says_where_it_was_and_goes_on_there(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        ask(ring, DESCRIBE)
        assert front_end.stop(0) == 2
        describe(ring)
        assert ring.used(wait=0.2) == []
        front_end.acknowledged(12, struct.pack("<Q", 0), (ring.kicked,))
        front_end.acknowledged(13, struct.pack("<Q", 0), (ring.called,))
        assert len(ring.used()) == 2


def test_other_memory_under_a_started_ring_is_taken(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        ask(ring, DESCRIBE)
        front_end.share()
        ask(ring, DESCRIBE)


def test_a_guest_that_starts_again_begins_anew_and_the_next_front_end_too(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        ring.offer(DESCRIBE)
        ring.kick()
        front_end.settle()
        front_end.stop(0)
        ask(front_end.start(0), DESCRIBE)
    with FrontEnd(nsm.path) as front_end:
        ask(nsm.ready(front_end), DESCRIBE)
    assert not nsm.violations


def test_a_second_front_end_is_refused_while_the_first_is_there(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        with FrontEnd(nsm.path) as second:
            assert second.hung_up()
        ask(ring, DESCRIBE)


def test_no_descriptor_stays_open(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        nsm.ready(front_end)
    before = None
    for _ in range(20):
        with FrontEnd(nsm.path) as front_end:
            ring = nsm.ready(front_end)
            front_end.acknowledged(14, struct.pack("<Q", 0), (front_end.event(),))
            ask(ring, DESCRIBE)
            # More than a message needs.
            front_end.send(3, b"", (front_end.event(),) * 8)
            front_end.settle()
            now = open_files()
            assert before in {None, now}
            before = now


# A guest that breaks its ring.


def loop(ring: Ring) -> None:
    ring.raw(0, ring.address(0), 16, NEXT, 1)
    ring.raw(1, ring.address(1), 16, NEXT, 0)
    ring.publish(0)


def itself(ring: Ring) -> None:
    ring.raw(5, ring.address(0), 16, NEXT, 5)
    ring.publish(5)


def outside(ring: Ring) -> None:
    ring.raw(0, GUEST + MEMORY - 8, 16, 0)
    ring.publish(0)


def before(ring: Ring) -> None:
    ring.raw(0, GUEST - 8, 16, 0)
    ring.publish(0)


def round_the_end(ring: Ring) -> None:
    ring.raw(0, 2**64 - 8, 16, 0)
    ring.publish(0)


def longest(ring: Ring) -> None:
    ring.raw(0, GUEST, 2**32 - 1, WRITE)
    ring.publish(0)


def front_end_address(ring: Ring) -> None:
    ring.raw(0, USER, 16, 0)
    ring.publish(0)


def head_outside(ring: Ring) -> None:
    ring.publish(SIZE)


def next_outside(ring: Ring) -> None:
    ring.raw(0, ring.address(0), 16, NEXT, 0xFFFF)
    ring.publish(0)


def indirect(ring: Ring) -> None:
    ring.raw(0, ring.address(0), 16, INDIRECT)
    ring.publish(0)


def read_after_write(ring: Ring) -> None:
    ring.offer(16, b"x")


def more_than_the_ring(ring: Ring) -> None:
    ring.publish(0, count=SIZE + 1)


def two_requests(ring: Ring) -> None:
    ring.offer(DESCRIBE)
    ring.offer(DESCRIBE)


def room_first(ring: Ring) -> None:
    ring.offer(0x1000, 0x1000, 0x1000)


def small_room(ring: Ring) -> None:
    ring.offer(DESCRIBE)
    ring.offer(0x1000)


def much_more_to_read(ring: Ring) -> None:
    # All of the memory, named 62 times over: not a byte of it is copied.
    for index in range(SIZE - 2):
        ring.raw(index, GUEST, MEMORY, NEXT if index < SIZE - 3 else 0, index + 1)
    ring.publish(0)
    ring.raw(SIZE - 2, GUEST, 0x3000, WRITE)
    ring.publish(SIZE - 2)


@pytest.mark.parametrize(
    "attack",
    [
        *(loop, itself, outside, before, round_the_end, longest, front_end_address, head_outside, next_outside),
        *(indirect, read_after_write, more_than_the_ring, two_requests, room_first, small_room, much_more_to_read),
    ],
)
def test_a_guest_that_breaks_its_ring_loses_it_until_it_sets_it_up_again(nsm: Served, attack: object) -> None:
    assert callable(attack)
    with FrontEnd(nsm.path) as front_end:
        ring = nsm.ready(front_end)
        attack(ring)
        ring.kick()
        front_end.settle()
        assert ring.back() == []
        front_end.stop(0)
        ask(front_end.start(0), DESCRIBE)
    assert [error.code for error in nsm.violations] == ["vhost.ring"]


@settings(max_examples=200)
@given(data=st.data())
def test_any_ring_at_all_leaves_the_back_end_alive(garbage: Served, data: st.DataObject) -> None:
    number = st.one_of(st.integers(0, SIZE), st.integers(0, 2**16 - 1))
    address = st.one_of(st.integers(GUEST, GUEST + MEMORY), st.integers(0, 2**64 - 1))
    length = st.one_of(st.integers(0, 0x3000), st.integers(0, 2**32 - 1))
    with FrontEnd(garbage.path) as front_end:
        ring = garbage.ready(front_end)
        for index in range(data.draw(st.integers(1, 6))):
            ring.raw(index, data.draw(address), data.draw(length), data.draw(st.integers(0, 7)), data.draw(number))
        ring.publish(data.draw(number), count=data.draw(number))
        ring.kick()
        front_end.settle()
        front_end.stop(0)
        ask(front_end.start(0), DESCRIBE)


# A front-end that breaks the protocol.


@pytest.fixture(scope="module")
def garbage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("nsm") / "nsm"
    with running(lambda: NsmDevice(SoftwareNsm(ROOT, {})), path) as violations:
        yield Served(path, violations)


def region(size: int = MEMORY, *, guest: int = GUEST, user: int = USER, offset: int = 0, count: int = 1) -> bytes:
    return struct.pack("<II", count, 0) + struct.pack("<QQQQ", guest, size, user, offset)


MESSAGES = {
    "an unknown request": (99, b""),
    "a request of a feature not offered": (37, b""),
    "a short payload": (8, b"\0"),
    "a ring that is not there": (8, struct.pack("<II", 1, SIZE)),
    "a size that is no power of two": (8, struct.pack("<II", 0, 3)),
    "a size of nothing": (8, struct.pack("<II", 0, 0)),
    "a huge size": (8, struct.pack("<II", 0, 1 << 15)),
    "a start beyond 16 bits": (10, struct.pack("<II", 0, 1 << 16)),
    "a kick without a descriptor": (12, struct.pack("<Q", 0)),
    "a kick to be polled": (12, struct.pack("<Q", 0x100)),
    "a call for another ring": (13, struct.pack("<Q", 0x107)),
    "a call with more flags": (13, struct.pack("<Q", 0x300)),
    "features that were not offered": (2, struct.pack("<Q", 1 << 28)),
    "protocol features that were not offered": (16, struct.pack("<Q", 1 << 5)),
    "a table without regions": (5, struct.pack("<II", 0, 0)),
    "a table of nine": (5, struct.pack("<II", 9, 0) + bytes(9 * 32)),
    "a table without descriptors": (5, region()),
    "a configuration without a header": (24, b"\0"),
    "a configuration beyond its payload": (24, struct.pack("<III", 0, 1 << 31, 0)),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_front_end_that_breaks_the_protocol_is_hung_up_on(nsm: Served, message: str) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.send(*MESSAGES[message])
        assert front_end.hung_up()
    assert [error.code for error in nsm.violations] in (["vhost.message"], ["vhost.memory"])
    with FrontEnd(nsm.path) as front_end:
        ask(nsm.ready(front_end), DESCRIBE)


@pytest.mark.parametrize(
    "table",
    [
        region(MEMORY + 1),
        region(0),
        region(offset=4096),
        region(2**64 - 1),
        region(guest=2**64 - 1),
        region(user=2**64 - MEMORY + 1),
        region(offset=2**64 - 1),
        region(offset=2**63, size=4096),
    ],
)
def test_memory_that_the_file_does_not_have_is_not_mapped(nsm: Served, table: bytes) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.send(5, table, (front_end.descriptor,))
        assert front_end.hung_up()
    assert [error.code for error in nsm.violations] == ["vhost.memory"]


def test_a_descriptor_that_is_no_memory_is_not_mapped(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.send(5, region(4096), (front_end.event(),))
        assert front_end.hung_up()
    assert [error.code for error in nsm.violations] == ["vhost.memory"]


def test_a_region_that_begins_within_a_page_is_found(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.negotiate()
        # The same memory, of which the table leaves the first 16 bytes to no one.
        table = region(MEMORY - 16, guest=GUEST + 16, user=USER + 16, offset=16)
        front_end.acknowledged(5, table, (front_end.descriptor,))
        front_end.acknowledged(8, struct.pack("<II", 0, 2))
        front_end.acknowledged(9, struct.pack("<IIQQQQ", 0, 0, USER + 16, USER + 0x2000, USER + 0x1000, 0))
        kicked, called = front_end.event(), front_end.event()
        front_end.acknowledged(12, struct.pack("<Q", 0), (kicked,))
        front_end.acknowledged(13, struct.pack("<Q", 0), (called,))
        front_end.enable(0)
        memory = front_end.memory
        memory[0x4000 : 0x4000 + len(DESCRIBE)] = DESCRIBE
        struct.pack_into("<QIHH", memory, 16, GUEST + 0x4000, len(DESCRIBE), 0, 0)
        struct.pack_into("<QIHH", memory, 32, GUEST + 0x5000, ROOM, WRITE, 0)
        struct.pack_into("<HHHH", memory, 0x1000, 0, 2, 0, 1)
        os.eventfd_write(kicked, 1)
        front_end.settle()
        assert struct.unpack_from("<HHII", memory, 0x2000)[1] == 2


@pytest.mark.parametrize("size", [513, 2**31, 2**32 - 1])
def test_a_payload_is_not_waited_for_when_it_would_be_too_large(nsm: Served, size: int) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.connection.sendall(struct.pack("<III", 1, 1, size))
        assert front_end.hung_up()


@pytest.mark.parametrize("flags", [0, 2, 5, 7])
def test_another_version_and_an_unasked_reply_are_refused(nsm: Served, flags: int) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.send(1, flags=flags)
        assert front_end.hung_up()


def test_a_message_in_pieces_is_put_together_with_its_descriptor(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        front_end.negotiate()
        message = struct.pack("<III", 5, 1 | 8, 40) + region()
        socket.send_fds(front_end.connection, [message[:5]], [front_end.descriptor])
        for at in range(5, len(message)):
            front_end.connection.sendall(message[at : at + 1])
        assert front_end.answer(5) == bytes(8)


def test_more_descriptors_than_any_message_has_are_closed(nsm: Served) -> None:
    with FrontEnd(nsm.path) as front_end:
        before = open_files()
        events = [front_end.event() for _ in range(20)]
        socket.send_fds(front_end.connection, [struct.pack("<III", 3, 1, 0)], events)
        assert front_end.hung_up()
        assert open_files() <= before + len(events)


@settings(max_examples=100)
@given(data=st.binary(max_size=600))
def test_any_bytes_at_all_leave_the_back_end_alive(garbage: Served, data: bytes) -> None:
    with FrontEnd(garbage.path) as front_end:
        front_end.connection.sendall(data)
        front_end.connection.shutdown(socket.SHUT_WR)
        front_end.connection.settimeout(SECONDS)
        while True:
            try:
                if not front_end.connection.recv(4096):
                    break
            except ConnectionResetError:
                break
    with FrontEnd(garbage.path) as front_end:
        ask(garbage.ready(front_end), DESCRIBE)
