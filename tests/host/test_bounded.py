"""Endless and trickling answers of S3 and KMS, which botocore would read whole."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from ephemeralml.errors import EphemeralMLError, KeyReleaseError, PackageError
from ephemeralml.host import bounded
from ephemeralml.host.kms import KmsClient
from ephemeralml.host.s3.source import S3Source

KEY = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"
Piece = Callable[[socket.socket], None]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDHOST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def endless() -> Iterator[Callable[[bytes], str]]:
    """Makes a server that answers with a head and then sends until the other end has had enough."""
    listener = socket.create_server(("127.0.0.1", 0))
    sent: list[int] = []
    heads: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                count = 0
                try:
                    connection.sendall(heads[-1])
                    while count < 64 << 20:
                        connection.sendall(bytes(65536))
                        count += 65536
                except OSError:
                    pass
                sent.append(count)

    thread = threading.Thread(target=serve)
    thread.start()

    def make(head: bytes) -> str:
        heads.append(head)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield make
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    # Socket buffers take a few megabytes besides.
    assert sent
    assert max(sent) < 16 << 20


def from_s3(url: str) -> object:
    return S3Source("s3://models/minilm", endpoint_url=url).manifest()


def from_kms(url: str) -> object:
    return KmsClient(region="us-east-1", endpoint_url=url).decrypt_for_recipient(
        key_arn=KEY, wrapped_dek=b"w", encryption_context={}, attestation_document=b"d"
    )


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
@pytest.mark.parametrize("ask", [from_s3, from_kms])
def test_an_answer_without_end_is_cut(
    endless: Callable[[bytes], str], ask: Callable[[str], object], status: bytes
) -> None:
    url = endless(b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n\r\n")
    with pytest.raises((KeyReleaseError, PackageError)) as caught:
        ask(url)
    assert caught.value.code in {"s3.answer", "kms.answer"}


def test_an_answer_that_trickles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes soon enough for the socket's own time limit."""
    monkeypatch.setattr(bounded, "_SECONDS", 0.3)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(EphemeralMLError) as caught:
                from_s3(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            stop.set()
            thread.join()
    assert caught.value.code == "s3.answer"
