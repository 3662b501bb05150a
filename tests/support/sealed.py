"""A client's end of a session, in steps that a well-behaved client does not show."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import numpy as np
from frames import read_frame

from ephemeralml.attestation import Policy
from ephemeralml.codec import cbor
from ephemeralml.session.blocking import write_all
from ephemeralml.session.frames import FrameType
from ephemeralml.session.handshake import ClientHandshake, check_accept, now
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES, RECORD_FRAME_BYTES
from ephemeralml.session.messages import EmbedRequest, EmbedResponse, Request, Response
from ephemeralml.session.records import Opener, Sealer
from ephemeralml.session.transport import Address, connect

# Far more than anything here takes, far less than what a broken limit costs.
PATIENCE = 60


class Reachable(Protocol):
    """An enclave, and what to accept of it."""

    policy: Policy
    address: str


class Session:
    """A client's end, step by step: `begin` shows the evidence, `open` seals the secret, then frames."""

    def __init__(self, enclave: Reachable, address: str | None = None) -> None:
        self.connection = connect(Address.parse(address or enclave.address), timeout=PATIENCE)
        self._policy = enclave.policy
        self._handshake = ClientHandshake()
        write_all(self.connection, self._handshake.hello())
        kind, self._evidence = read_frame(self.connection, limit=HANDSHAKE_FRAME_BYTES)
        assert kind is FrameType.EVIDENCE

    @property
    def hpke_public_key(self) -> bytes:
        value = cbor.decode(self._evidence)
        assert isinstance(value, dict)
        key = value["hpke_public_key"]
        assert isinstance(key, bytes)
        return key

    def open(self) -> Session:
        _, keys, opening = self._handshake.receive_evidence(self._evidence, policy=self._policy, at=now())
        write_all(self.connection, opening)
        kind, body = read_frame(self.connection, limit=HANDSHAKE_FRAME_BYTES)
        assert kind is FrameType.ACCEPT
        check_accept(body, keys)
        self._sealer = Sealer(keys.client_to_enclave, keys.session_id)
        self._opener = Opener(keys.enclave_to_client, keys.session_id)
        return self

    def send(self, plaintext: bytes) -> None:
        write_all(self.connection, self._sealer.seal(FrameType.REQUEST, plaintext))

    def receive(self) -> tuple[FrameType, bytes]:
        """The next frame, its record opened; an ALERT is none."""
        kind, body = read_frame(self.connection, limit=RECORD_FRAME_BYTES)
        return kind, body if kind is FrameType.ALERT else self._opener.open(kind, body)

    def embed(self, *texts: str) -> np.ndarray:
        self.send(request(*texts))
        kind, plaintext = self.receive()
        assert kind is FrameType.RESPONSE
        return EmbedResponse.from_bytes(Response.from_bytes(plaintext).body).vectors

    def ended(self) -> bool:
        """Whether the other side hangs up without another word."""
        with suppress(ConnectionResetError):
            return self.connection.recv(1) == b""
        return True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def request(*texts: str, number: int = 0) -> bytes:
    return Request(number, EmbedRequest(texts, bytes(32), bytes(16), None).to_bytes()).to_bytes()
