"""A verified enclave at the other end: the handshake, and an answer that counts only with its proof."""

from __future__ import annotations

import os
import time
from hashlib import sha256

from ephemeralml.attestation import Policy
from ephemeralml.client.channel import Channel, alerted
from ephemeralml.client.result import EmbedResult
from ephemeralml.errors import SessionError, TransportError
from ephemeralml.receipts import Bundle, ReceiptPolicy, check_evidence, verify_receipt
from ephemeralml.session.blocking import FrameReader, write_all
from ephemeralml.session.frames import FrameType
from ephemeralml.session.handshake import Attested, ClientHandshake, now
from ephemeralml.session.keys import SessionKeys
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES
from ephemeralml.session.messages import NONCE_BYTES, SALT_BYTES, EmbedRequest, EmbedResponse, Response
from ephemeralml.session.transport import Address, connect

# Of a receipt's time against ours; the enclave's clock is the host's to some degree.
_CLOCK_SKEW_SECONDS = 300


class Connection:
    """One session. Raises before anything was sent when the evidence does not pass `policy`.

    A request that is not answered by its deadline (monotonic seconds) fails alone, unless nothing at all was heard for
    `patience` seconds.
    """

    def __init__(self, address: Address, *, policy: Policy, deadline: float, patience: float) -> None:
        connection = connect(address, timeout=max(0.001, deadline - time.monotonic()))
        try:
            frames = FrameReader(connection)
            handshake = ClientHandshake()
            write_all(connection, handshake.hello(), deadline=deadline)
            self.attested: Attested
            self.attested, keys, opening = _receive_evidence(handshake, frames, policy, deadline)
            # The key confirmation comes with the first answer: waiting for it here would cost a round trip.
            write_all(connection, opening, deadline=deadline)
            self._channel = Channel(connection, frames, keys, patience=patience)
        except BaseException:
            connection.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether this connection can carry no further request."""
        return self._channel.ended

    def close(self) -> None:
        """Tell the enclave, and hang up. Never raises."""
        self._channel.close()

    def embed(self, texts: tuple[str, ...], *, deadline: float) -> EmbedResult:
        """Ask once. Raises `SessionEndedError` when a new connection may be asked again, else as `Client.embed`."""
        nonce, salt = os.urandom(NONCE_BYTES), os.urandom(SALT_BYTES)
        body, answer = self._channel.ask(
            lambda previous: EmbedRequest(texts, nonce, salt, previous).to_bytes(), deadline=deadline
        )
        return self._proved(body, answer, nonce=nonce, count=len(texts))

    def _proved(self, body: bytes, answer: Response, *, nonce: bytes, count: int) -> EmbedResult:
        evidence, manifest = self.attested.evidence, self.attested.manifest
        receipt = verify_receipt(
            answer.receipt,
            public_key=self.attested.receipt_key,
            policy=ReceiptPolicy(
                expected_nonce=nonce,
                expected_model_hash=manifest.digest,
                expected_platform="nitro-pcr",
                max_age_secs=_CLOCK_SKEW_SECONDS,
            ),
        )
        claims = receipt.claims
        check_evidence(claims, self.attested.verdict, manifest)
        if claims.request_hash != sha256(body).digest() or claims.response_hash != sha256(answer.body).digest():
            raise SessionError("the receipt is not for this request and its answer", code="receipt.binding")
        response = EmbedResponse.from_bytes(answer.body)
        if len(response.vectors) != count:
            raise SessionError("the answer does not hold one vector for each text", code="response.count")
        return EmbedResult(
            vectors=response.vectors,
            tokens=response.tokens,
            receipt=receipt,
            verdict=self.attested.verdict,
            manifest=manifest,
            bundle=Bundle(receipt=answer.receipt, document=evidence.document, manifest=evidence.manifest),
            request=body,
            response=answer.body,
        )


def _receive_evidence(
    handshake: ClientHandshake, frames: FrameReader, policy: Policy, deadline: float
) -> tuple[Attested, SessionKeys, bytes]:
    try:
        kind, body = frames.read(limit=HANDSHAKE_FRAME_BYTES, deadline=deadline)
    except TimeoutError as error:
        raise TransportError("the enclave did not show its evidence in time", code="transport.timeout") from error
    if kind is FrameType.ALERT:
        raise alerted(body)
    if kind is not FrameType.EVIDENCE:
        raise SessionError(f"the enclave sent {kind.name} where its evidence is due", code="handshake.order")
    return handshake.receive_evidence(body, policy=policy, at=now())
