"""What the host does for its enclave: artifact feed and key broker, on one listener; it holds ciphertext only."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, EphemeralMLError, KeyReleaseError, TransportError
from ephemeralml.host import tunnel
from ephemeralml.host.metrics import HostMetrics
from ephemeralml.package import ArtifactSource, Manifest
from ephemeralml.session.blocking import write_all
from ephemeralml.session.hostlink import MESSAGE_BYTES, Ask, KeyAsk, failure, malformed, success
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.report import Report
from ephemeralml.session.transport import Address
from ephemeralml.session.tunnel import Credentials

if TYPE_CHECKING:
    from ephemeralml.host.kms import KmsClient

_LENGTH = struct.Struct(">I")
_ASK_SECONDS = 10
_SEND_SECONDS = 60
_LAST_SECONDS = 5
# Many times what an enclave opens at once.
_MAX_CONNECTIONS = 64
# An artifact is read from disk in pieces of this size, many times what one write carries.
_READ_BYTES = 16 * WRITE_BYTES

_T = TypeVar("_T")
OnState = Callable[[str, str, str], Awaitable[None]]


class Services:
    """Answers the enclaves of one host, with the package that `open_source` finds each time that one starts.

    `on_state` is awaited with (state, code, message) when an enclave reports one; `metrics` counts. With `kms_tunnel`
    an enclave that asks is given this host's temporary credentials and a stream to KMS.
    """

    def __init__(
        self,
        open_source: Callable[[], ArtifactSource],
        *,
        kms_endpoint: str | None,
        on_state: OnState,
        metrics: HostMetrics,
        kms_tunnel: bool = False,
    ) -> None:
        self._open_source = open_source
        self._source = open_source()
        # What the enclave can only call truncated.
        self._broken: EphemeralMLError | None = None
        self._kms_endpoint = kms_endpoint
        self._kms_tunnel = kms_tunnel
        self._on_state = on_state
        self._metrics = metrics
        # What the enclave that boots now was given.
        self._handed: bytes | None = None
        # For one region: a package has one key.
        self._kms: tuple[str, KmsClient] | None = None
        self._making = threading.Lock()
        self._connections = 0

    async def renew(self) -> None:
        """Look at the package anew: another may have been published since."""
        self._source = await _in_own_thread(self._open_source)
        self._broken = None

    def prepare(self) -> None:
        """Make the client of the package's KMS, a third of a second's work, before the enclave asks for its key."""
        # Whatever is wrong here is said when the enclave asks.
        with suppress(EphemeralMLError):
            self._client(Manifest.verify(self._source.manifest(), owner=None).key.key_arn)

    def _client(self, key_arn: str) -> KmsClient:
        # boto3 takes long to import, and an enclave boots meanwhile.
        from ephemeralml.host.kms import KmsClient, key_region  # noqa: PLC0415

        region = key_region(key_arn)
        with self._making:
            if self._kms is None or self._kms[0] != region:
                self._kms = region, KmsClient(region=region, endpoint_url=self._kms_endpoint)
            return self._kms[1]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one question, one answer."""
        if self._connections >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if length > MESSAGE_BYTES:
                    malformed("request")
                question = await reader.readexactly(length)
            await self._answer(question, reader, writer)
        except EphemeralMLError as error:
            self._metrics.failed(error.code)
            with suppress(OSError):
                await _reply(writer, failure(error.code, str(error)))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        # What S3 or KMS can make a library raise: this connection's business alone.
        except Exception as error:  # noqa: BLE001
            self._metrics.failed("internal")
            with suppress(OSError):
                await _reply(writer, failure("internal", f"the host failed on this request ({type(error).__name__})"))
        finally:
            self._connections -= 1
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await writer.wait_closed()
            # An enclave that does not read keeps nothing here.
            writer.transport.abort()

    async def _answer(self, question: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            value = cbor.decode(question, limit=MESSAGE_BYTES)
        except CodecError:
            malformed("request")
        if not isinstance(value, dict):
            malformed("request")
        match value:
            case {"ask": Ask.MANIFEST}:
                self._handed = await _in_own_thread(self._source.manifest)
                await _reply(writer, success(manifest=self._handed))
            case {"ask": Ask.ARTIFACT, "name": str(name)}:
                # Nothing waits in the transport: this connection has not been answered yet.
                connection = writer.get_extra_info("socket").dup()
                await _in_own_thread(partial(self._feed, name, connection))
            case {"ask": Ask.KEY}:
                released = await _in_own_thread(partial(self._release, KeyAsk.from_map(value)))
                self._metrics.released("broker")
                await _reply(writer, released)
            case {"ask": Ask.TUNNEL} if len(value) == 1:
                credentials, kms = await _in_own_thread(self._tunnel)
                async with tunnel.stream_to(kms) as far:
                    self._metrics.released("tunnel")
                    await _reply(writer, success(**credentials.to_map()))
                    await tunnel.carry((reader, writer), far)
            case {"ask": Ask.STATE, "state": str(state), "code": str(code), "message": str(message)}:
                await _reply(writer, success())
                if state == "ready":
                    self._metrics.ready(self._handed)
                if state == "failed" and self._broken is not None:
                    code, message = self._broken.code, f"{message} The feed broke off: {self._broken}"
                await self._on_state(state, code, message)
            case {"ask": Ask.REPORT}:
                self._metrics.reported(Report.from_map(value))
                await _reply(writer, success())
            case _:
                malformed("request")

    def _feed(self, name: str, connection: socket.socket) -> None:
        """Send an artifact, without the event loop in between: that takes twice as long.

        Raises what opening it does, as long as that can be answered; afterwards the stream just ends.
        """
        with connection, self._source.open(name) as read:
            answer = success()
            chunk: bytes | memoryview = _LENGTH.pack(len(answer)) + answer
            while chunk:
                try:
                    write_all(connection, chunk, deadline=time.monotonic() + _SEND_SECONDS)
                # The enclave hung up: why, it says itself.
                except TransportError:
                    return
                try:
                    chunk = read(_READ_BYTES)
                except EphemeralMLError as error:
                    self._broken = error
                    return

    def _tunnel(self) -> tuple[Credentials, Address]:
        """What a tunnel is handed, and where it leads: to the KMS of this package's key, whatever the enclave says."""
        if not self._kms_tunnel:
            raise KeyReleaseError(
                "this host hands no credentials to its enclave; start it with --kms-tunnel, or the enclave without "
                "kms_roots",
                code="kms.tunnel",
            )
        key = Manifest.verify(self._source.manifest(), owner=None).key
        return tunnel.temporary_credentials(), tunnel.destination(key.key_arn, self._kms_endpoint)

    def _release(self, ask: KeyAsk) -> bytes:
        released = self._client(ask.key_arn).decrypt_for_recipient(
            key_arn=ask.key_arn,
            wrapped_dek=ask.wrapped_dek,
            encryption_context=ask.encryption_context,
            attestation_document=ask.document,
        )
        return success(
            key_arn=released.key_arn,
            ciphertext_for_recipient=released.ciphertext_for_recipient,
        )


async def _in_own_thread(work: Callable[[], _T]) -> _T:
    """As `asyncio.to_thread`, but a process that ends does not wait for it: a silent KMS takes half a minute."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        # Nobody listens any more once the loop is closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if done.done() else settle())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001
            tell(partial(done.set_exception, error))
        else:
            tell(partial(done.set_result, result))

    threading.Thread(target=run, name="services", daemon=True).start()
    return await done


async def _reply(writer: asyncio.StreamWriter, message: bytes) -> None:
    if len(message) > MESSAGE_BYTES:
        raise TransportError("an answer is larger than the host link carries", code="hostlink.too_large")
    writer.write(_LENGTH.pack(len(message)) + message)
    async with asyncio.timeout(_SEND_SECONDS):
        await writer.drain()
