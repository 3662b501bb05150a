"""A guest's vsock driver: packets in and out of the two rings, as Linux fills them."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

from vhost_front_end import SECONDS, FrontEnd

from ephemeralml.devcloud.vhost.packet import HEADER_BYTES, Operation, Packet

CID = 7
ROOM = 256 * 1024
_ROOM_BYTES = 0x1000


class Driver:
    """The rings of a started device. `own` is the guest's port, `peer` the host's, in every call."""

    def __init__(self, front_end: FrontEnd, *, rooms: int = 32) -> None:
        front_end.negotiate()
        front_end.share()
        self.front_end = front_end
        self.start(rooms=rooms)

    def start(self, *, rooms: int = 32) -> None:
        self.receiving, self.sending = self.front_end.start(0), self.front_end.start(1)
        self.packets: deque[tuple[Packet, bytes]] = deque()
        self.offer(rooms)

    def offer(self, rooms: int) -> None:
        """Rooms for packets of the device's."""
        for _ in range(rooms):
            self.receiving.offer(_ROOM_BYTES)
        self.receiving.kick()

    def send(
        self,
        operation: int,
        own: int,
        peer: int,
        data: bytes = b"",
        *,
        flags: int = 0,
        cid: int = 3,
        source: int = CID,
        kind: int = 1,
        length: int | None = None,
        room: int = ROOM,
        forwarded: int = 0,
    ) -> None:
        deadline = time.monotonic() + SECONDS
        packet = Packet(
            source=source,
            destination=cid,
            source_port=own,
            destination_port=peer,
            length=len(data) if length is None else length,
            kind=kind,
            operation=operation,
            flags=flags,
            allocated=room,
            forwarded=forwarded % 2**32,
        )
        parts = [bytes(packet), *(data[at : at + _ROOM_BYTES] for at in range(0, len(data), _ROOM_BYTES))]
        while self.sending.room < len(parts):
            assert time.monotonic() < deadline, "the device takes no packets"
            self.poll()
        self.sending.offer(*parts)
        self.sending.kick()

    def poll(self, *, refill: bool = True) -> None:
        """Gather what has come, and offer as many rooms again."""
        self.sending.back()
        came = self.receiving.back()
        for _, data in came:
            packet = Packet.parse(data)
            assert len(data) == HEADER_BYTES + packet.length
            assert packet.destination == CID
            self.packets.append((packet, data[HEADER_BYTES:]))
        if refill and came:
            self.offer(len(came))
        if not came:
            time.sleep(0.0005)

    def next(self, *, skip: tuple[Operation, ...] = (Operation.CREDIT_UPDATE,)) -> tuple[Packet, bytes]:
        """The next packet but for those to be skipped."""
        deadline = time.monotonic() + SECONDS
        while True:
            while self.packets:
                packet, data = self.packets.popleft()
                if packet.operation not in skip:
                    return packet, data
            assert time.monotonic() < deadline, "no packet came"
            self.poll()

    def expect(self, operation: Operation, own: int, peer: int) -> Packet:
        packet, _ = self.next()
        assert (packet.operation, packet.destination_port, packet.source_port) == (operation, own, peer)
        return packet

    def call(self, own: int, peer: int, *, cid: int = 3) -> Packet:
        """Open a connection to the host."""
        self.send(Operation.REQUEST, own, peer, cid=cid)
        return self.expect(Operation.RESPONSE, own, peer)


def listening_path(path: Path, port: int) -> Path:
    """Where the host listens for a guest's call to `port`."""
    return path.with_name(f"{path.name}_{port}")
