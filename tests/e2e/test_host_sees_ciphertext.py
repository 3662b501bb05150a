"""Every byte on the host's sockets and in its files, and none of it a text, a vector, a weight or a key."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.session.transport import Address, connect

RUN = 32
TEXTS = ["the cat sat on the mat while it rained", "dogs walked outside , playing in the hard rain !"]


class Tap:
    """Proxies that keep all they carry."""

    def __init__(self) -> None:
        self.recorded: dict[str, bytearray] = {}
        self._listeners: list[socket.socket] = []
        self._connections: list[socket.socket] = []

    def __call__(self, target: Address) -> Address:
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        record = self.recorded.setdefault(str(target), bytearray())
        threading.Thread(target=self._accept, args=(listener, target, record), daemon=True).start()
        return Address("tcp", host="127.0.0.1", port=listener.getsockname()[1])

    def _accept(self, listener: socket.socket, target: Address, record: bytearray) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = connect(target, timeout=20)
            except Exception:  # noqa: BLE001
                near.close()
                continue
            near.settimeout(20)
            self._connections += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink, record), daemon=True).start()

    def close(self) -> None:
        for end in (*self._listeners, *self._connections):
            end.close()


def _copy(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
    try:
        while chunk := source.recv(65536):
            record += chunk
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def tap() -> Iterator[Tap]:
    tap = Tap()
    yield tap
    tap.close()


def runs(data: bytes) -> set[bytes]:
    """Every run of 32 bytes, whatever its alignment, but the constant ones."""
    return {data[i : i + RUN] for i in range(len(data) - RUN + 1) if len(set(data[i : i + RUN])) > 1}


def test_the_host_sees_ciphertext_only(
    tap: Tap, tmp_path: Path, tiny_model: Path, deploy: Callable[..., AbstractContextManager[Any]]
) -> None:
    with deploy(tmp_path, tiny_model, {}, tap=tap) as deployment:
        with deployment.client() as client:
            results = [client.embed(TEXTS), client.embed(TEXTS[:1])]
            keys = client._connection._channel._keys
        package = b"".join(path.read_bytes() for path in (tmp_path / "package").rglob("*") if path.is_file())
        dek = deployment.dek
    sides = {name: bytes(record) for name, record in tap.recorded.items()}
    # Relay both ways, services and KMS: each really carried something.
    assert len(sides) == 4
    assert min(len(record) for record in sides.values()) > 1000
    seen = b"".join(sides.values()) + package
    weights = (tiny_model / "model.safetensors").read_bytes()
    assert len(seen) > len(weights)
    vectors = b"".join(result.vectors.tobytes() for result in results)

    windows = runs(seen)
    assert not windows & runs(weights)
    assert not windows & runs(vectors)
    assert len(dek) == RUN
    for secret in (dek, keys.client_to_enclave, keys.enclave_to_client):
        assert secret not in seen
        assert secret.hex().encode() not in seen
    for text in TEXTS:
        assert text.encode() not in seen
        # A shorter piece would be as bad.
        assert all(text[i : i + 12].encode() not in seen for i in range(len(text) - 11))


def test_the_search_finds_what_is_there() -> None:
    secret = bytes(range(200))
    assert runs(b"xx" + secret[5:37] + b"yy") & runs(secret)
    assert not runs(b"xx" + secret[5:36] + b"yy") & runs(secret)
