"""A relay that attacks: for tests and the demo, to show that tampering is noticed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self

from ephemeralml.errors import EphemeralMLError
from ephemeralml.session.blocking import read_exactly
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.transport import Address, connect

Attack = Callable[[FrameType, bytes], list[bytes]]
"""Given a frame that goes to the enclave (type, whole frame), the frames to send in its place."""

_TIMEOUT_SECONDS = 10.0


def replay(kind: FrameType, frame: bytes) -> list[bytes]:
    """Every sealed request twice."""
    return [frame, frame] if kind is FrameType.REQUEST else [frame]


def alter(kind: FrameType, frame: bytes) -> list[bytes]:
    """One bit of every sealed request flipped."""
    if kind is not FrameType.REQUEST:
        return [frame]
    changed = bytearray(frame)
    changed[-1] ^= 1
    return [bytes(changed)]


class HostileRelay:
    """Listens on loopback and applies `attack` between one client at a time and the honest relay at `target`."""

    def __init__(self, target: Address, attack: Attack) -> None:
        self._target = target
        self._attack = attack
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("tcp", host="127.0.0.1", port=self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, connect(self._target, timeout=_TIMEOUT_SECONDS) as enclave:
            client.settimeout(_TIMEOUT_SECONDS)
            threading.Thread(target=_copy, args=(enclave, client), daemon=True).start()
            try:
                while True:
                    header = read_exactly(client, HEADER.size)
                    length, kind = HEADER.unpack(header)
                    for frame in self._attack(FrameType(kind), header + read_exactly(client, length)):
                        enclave.sendall(frame)
            # Either end left: that is what an attack ends with.
            except (EphemeralMLError, OSError):
                return


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
