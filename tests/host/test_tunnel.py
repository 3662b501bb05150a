"""The host's end of a tunnel: one destination, temporary credentials, bytes carried as they come."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samples import OWNER, make_manifest
from tls import Loop
from tunnels import tunnelling

from ephemeralml.codec import cbor
from ephemeralml.errors import ConfigurationError, KeyReleaseError
from ephemeralml.host import tunnel as module
from ephemeralml.host.tunnel import destination, temporary_credentials
from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.hostlink import Ask
from ephemeralml.session.transport import Address, connect

ARN = "arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-0000-0000-000000000000"


@pytest.fixture(autouse=True)
def role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIA" + "X" * 16)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "tcp://kms.eu-central-1.amazonaws.com:443"),
        ("https://vpce-1.kms.eu-central-1.vpce.amazonaws.com", "tcp://vpce-1.kms.eu-central-1.vpce.amazonaws.com:443"),
        ("https://127.0.0.1:7002/", "tcp://127.0.0.1:7002"),
        ("https://[::1]:7002", "tcp://[::1]:7002"),
    ],
)
def test_where_tunnels_lead(url: str | None, expected: str) -> None:
    assert str(destination(ARN, url)) == expected


@pytest.mark.parametrize("url", ["", "127.0.0.1", "https://", "https://a:port", "https://a:70000", "https://[::1"])
def test_endpoints_that_name_no_host(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        destination(ARN, url)
    assert caught.value.code == "kms.client"


def test_credentials_of_the_role() -> None:
    credentials = temporary_credentials()
    assert (credentials.access_key_id, credentials.secret_access_key, credentials.session_token) == (
        "ASIA" + "X" * 16,
        "secret",
        "token",
    )


@pytest.mark.parametrize("missing", [["AWS_SESSION_TOKEN"], ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]])
def test_a_permanent_key_and_none_are_not_handed_out(monkeypatch: pytest.MonkeyPatch, missing: list[str]) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(KeyReleaseError) as caught:
        temporary_credentials()
    assert caught.value.code == "kms.credentials"
    assert "secret" not in str(caught.value)


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(KeyReleaseError) as caught:
        temporary_credentials()
    assert caught.value.code == "kms.credentials"


class Far:
    """What stands where tunnels lead: echoes in capitals, and counts its connections."""

    def __init__(self) -> None:
        self.connections = self.ended = 0

    async def handler(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            while data := await reader.read(100_000):
                writer.write(data.upper())
                await writer.drain()
        self.ended += 1


@pytest.fixture
def services(tmp_path: Path) -> Callable[..., Address]:
    """The address of a host whose tunnels lead to that port."""

    def make(loop: Loop, port: int, *, kms_tunnel: bool = True) -> Address:
        return tunnelling(loop, tmp_path, manifest=make_manifest().sign(OWNER), port=port, tunnel=kms_tunnel)

    return make


def ask(connection: Any, **more: cbor.Value) -> dict[str, Any]:
    message = cbor.encode({"ask": int(Ask.TUNNEL), **more})
    write_all(connection, len(message).to_bytes(4) + message)
    answer: Any = cbor.decode(read_exactly(connection, int.from_bytes(read_exactly(connection, 4))))
    assert isinstance(answer, dict)
    return answer


def test_what_is_said_goes_there_and_back(services: Callable[..., Address]) -> None:
    far = Far()
    with Loop() as loop, connect(services(loop, loop.serve(far.handler)), timeout=10) as connection:
        assert set(ask(connection)["ok"]) == {"access_key_id", "secret_access_key", "session_token"}
        for size in (1, 70_000, 7):
            write_all(connection, b"x" * size)
            assert read_exactly(connection, size) == b"X" * size


def test_the_enclave_chooses_no_destination(services: Callable[..., Address]) -> None:
    """Whatever it says beside its question: the tunnel leads where the operator and the package say."""
    far, other = Far(), Far()
    with Loop() as loop:
        elsewhere = loop.serve(other.handler)
        wish: dict[str, cbor.Value] = {
            "host": "127.0.0.1",
            "port": elsewhere,
            "key_arn": ARN,
            "endpoint": f"https://127.0.0.1:{elsewhere}",
        }
        with connect(services(loop, loop.serve(far.handler)), timeout=10) as connection:
            assert ask(connection, **wish)["error"]["code"] == "hostlink.malformed"
    assert (far.connections, other.connections) == (0, 0)


def test_a_host_without_the_option_hands_out_nothing(services: Callable[..., Address]) -> None:
    far = Far()
    with (
        Loop() as loop,
        connect(services(loop, loop.serve(far.handler), kms_tunnel=False), timeout=10) as connection,
    ):
        answer = ask(connection)
    assert answer["error"]["code"] == "kms.tunnel"
    assert far.connections == 0


def test_nothing_is_handed_out_before_kms_is_reached(services: Callable[..., Address]) -> None:
    with Loop() as loop, connect(services(loop, 9), timeout=10) as connection:
        answer = ask(connection)
        assert connection.recv(1) == b""
    assert answer["error"]["code"] == "kms.unreachable"
    assert "token" not in str(answer)


def test_a_tunnel_ends_with_either_side_and_with_its_time(
    services: Callable[..., Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def brief(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"z" * 200_000)
        writer.close()
        await writer.wait_closed()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)

    with Loop() as loop, connect(services(loop, loop.serve(brief)), timeout=10) as connection:
        ask(connection)
        # All that KMS said, to the last byte, and then the end.
        assert read_exactly(connection, 200_000) == b"z" * 200_000
        assert connection.recv(1) == b""
    monkeypatch.setattr(module, "_CARRY_SECONDS", 0.2)
    with Loop() as loop, connect(services(loop, loop.serve(silent)), timeout=10) as connection:
        ask(connection)
        assert connection.recv(1) == b""


def test_an_enclave_that_hangs_up_leaves_no_connection_behind(services: Callable[..., Address]) -> None:
    far = Far()
    with Loop() as loop:
        address = services(loop, loop.serve(far.handler))
        for _ in range(3):
            with connect(address, timeout=10) as connection:
                ask(connection)
        loop.until(lambda: far.ended == 3)
    assert far.connections == 3
