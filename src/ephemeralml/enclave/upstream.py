"""The enclave's way out: what it asks of its own host, over connections it opens itself. Nothing here is trusted."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, KeyReleaseError, TransportError
from ephemeralml.package import KeyRecord, Reader
from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.hostlink import MESSAGE_BYTES, Ask, KeyAsk, malformed
from ephemeralml.session.report import Report
from ephemeralml.session.transport import Address, connect
from ephemeralml.session.tunnel import Credentials

_LENGTH = struct.Struct(">I")
# A release goes to KMS and back, with the host's retries.
_TIMEOUT_SECONDS = 60.0
_RECEIVE_BYTES = 256 * 1024


class Upstream:
    """An `ArtifactSource` and the client of key broker and tunnel; each call is one connection to `address`."""

    def __init__(self, address: Address) -> None:
        self._address = address

    @contextmanager
    def _asked(self, message: bytes) -> Iterator[tuple[socket.socket, dict[int | str, cbor.Value]]]:
        with connect(self._address, timeout=_TIMEOUT_SECONDS) as connection:
            write_all(connection, _LENGTH.pack(len(message)) + message)
            (length,) = _LENGTH.unpack(read_exactly(connection, _LENGTH.size))
            if length > MESSAGE_BYTES:
                malformed("answer")
            try:
                answer = cbor.decode(read_exactly(connection, length), limit=MESSAGE_BYTES)
            except CodecError:
                malformed("answer")
            if not isinstance(answer, dict):
                malformed("answer")
            if isinstance(error := answer.get("error"), dict):
                code, text = str(error.get("code"))[:64], str(error.get("message"))[:400]
                raise TransportError(f"the host answers: {text}", code=code)
            if not isinstance(values := answer.get("ok"), dict):
                malformed("answer")
            yield connection, values

    def manifest(self) -> bytes:
        """The signed manifest, as the host has it. Raises `TransportError`."""
        with self._asked(cbor.encode({"ask": int(Ask.MANIFEST)})) as (_, values):
            manifest = values.get("manifest")
            if not isinstance(manifest, bytes):
                malformed("manifest answer")
            return manifest

    @contextmanager
    def open(self, name: str) -> Iterator[Reader]:
        """The encrypted artifact `name` as a reader; its length is the host's word, the reader's caller has the cap."""
        with self._asked(cbor.encode({"ask": int(Ask.ARTIFACT), "name": name})) as (connection, _):

            def read(size: int) -> bytes:
                try:
                    return connection.recv(min(size, _RECEIVE_BYTES))
                except OSError as error:
                    raise TransportError(
                        f"the host stopped sending {name}: {error.strerror or error}", code="transport.closed"
                    ) from error

            yield read

    def release(self, record: KeyRecord, document: bytes) -> bytes:
        """CiphertextForRecipient for the package's key, by way of the host's broker. Raises `KeyReleaseError`."""
        ask = KeyAsk(record.key_arn, record.wrapped_dek, dict(record.encryption_context), document)
        try:
            with self._asked(ask.to_bytes()) as (_, values):
                answer = values.get("ciphertext_for_recipient")
                # A plaintext key has been seen by the host: it is no secret any more.
                if set(values) != {"ciphertext_for_recipient", "key_arn"} or not isinstance(answer, bytes):
                    raise KeyReleaseError(
                        "the broker answers with more or less than a sealed key",
                        code="key_release.answer",
                    )
                if values["key_arn"] != record.key_arn:
                    raise KeyReleaseError("the broker's answer is for another KMS key", code="key_release.key_id")
                return answer
        except TransportError as error:
            raise KeyReleaseError(f"the model's key was not released: {error}", code=error.code) from error

    @contextmanager
    def tunnel(self) -> Iterator[tuple[socket.socket, Credentials]]:
        """A raw stream that the host carries to KMS, and credentials to ask it with. Raises `TransportError`."""
        with self._asked(cbor.encode({"ask": int(Ask.TUNNEL)})) as (connection, values):
            yield connection, Credentials.from_map(values)

    def report(self, state: str, *, code: str = "", message: str = "") -> None:
        """Tell the host ``ready`` or ``failed``; a host that does not listen changes nothing."""
        self._tell(cbor.encode({"ask": int(Ask.STATE), "state": state, "code": code, "message": message}))

    def count(self, report: Report) -> None:
        """Tell the host how much was done; a host that does not listen changes nothing."""
        self._tell(report.to_bytes())

    def _tell(self, message: bytes) -> None:
        try:
            with self._asked(message):
                pass
        except TransportError:
            return
