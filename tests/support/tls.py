"""A certificate authority made on the spot, and servers over TLS that answer what a test tells them to."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Closable(Protocol):
    """A server."""

    def close(self) -> None: ...


_T = TypeVar("_T")
_S = TypeVar("_S", bound=Closable)
Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

KMS_NAME = "kms.us-east-1.amazonaws.com"


class Authority:
    """A root certificate (`der`) and what it issues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        now = datetime.now(UTC)
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key(), now - timedelta(days=2), now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.der = self._certificate.public_bytes(Encoding.DER)

    def server(
        self,
        *names: str,
        starts: timedelta = timedelta(days=-1),
        lasts: timedelta = timedelta(days=1),
        common_name: str = "a server",
    ) -> ssl.SSLContext:
        """A server's context; its certificate is for `names`, good from `starts` to `lasts`, both from now on."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = datetime.now(UTC)
        builder = _builder(subject, self._name, key.public_key(), now + starts, now + lasts)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        certificate = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        ).sign(self._key, hashes.SHA256())
        path = self.folder / f"{certificate.serial_number}.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _general(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


class Loop:
    """An event loop in a thread, for servers beside a test that blocks. Use as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # Whoever does not finish a handshake is a test's subject, not its news.
        self._loop.set_exception_handler(lambda *_: None)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._servers: list[Closable] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(_end(self._servers))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self, listening: Coroutine[Any, Any, _S]) -> _S:
        """A server that is closed in the end."""
        server = self._run(listening)
        self._servers.append(server)
        return server

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it, half a minute at most."""

        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self._run(wait())

    def serve(self, handler: Handler, context: ssl.SSLContext | None = None) -> int:
        """The port of a server on 127.0.0.1 that treats every connection so."""

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
            writer.transport.abort()

        server = self.start(asyncio.start_server(one, "127.0.0.1", 0, ssl=context))
        port: int = server.sockets[0].getsockname()[1]
        return port


async def _end(servers: Sequence[Closable]) -> None:
    for server in servers:
        server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One HTTP request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(length)


def replying(*pieces: bytes, pause: float = 0, asked: list[bytes] | None = None) -> Handler:
    """Answers the first request with `pieces`, each after a pause in seconds, and hangs up."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if asked is not None:
            asked.append(request)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        writer.close()
        await writer.wait_closed()

    return handler


def forwarding(port: int, seen: Sequence[list[bytes]] = ()) -> Handler:
    """Carries the stream inside to a plain server on 127.0.0.1; `seen` hears what goes there and what comes back."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Sequence[list[bytes]]) -> None:
        while data := await reader.read(65536):
            for one in heard:
                one.append(data)
            writer.write(data)
            await writer.drain()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        ways = [asyncio.ensure_future(copy(reader, far_writer, seen[:1]))]
        ways.append(asyncio.ensure_future(copy(far_reader, writer, seen[1:])))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    return handler
