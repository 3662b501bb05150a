from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ephemeralml.devcloud import vsock as module
from ephemeralml.devcloud.hypervisor import LocalEnclave
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.devcloud.vsock import HybridVsock
from ephemeralml.errors import ConfigurationError
from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.transport import Address, connect


@pytest.fixture
def device(tmp_path: Path) -> Iterator[HybridVsock]:
    with HybridVsock(host=tmp_path / "host", guest=tmp_path / "guest") as running:
        yield running


@contextmanager
def accepting(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(5)
        listener.bind(str(path))
        listener.listen()
        yield listener


def accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(5)
    return connection


def dial(path: Path) -> socket.socket:
    return connect(Address("unix", path=str(path)), timeout=5)


@pytest.mark.parametrize(("here", "there"), [("host", "guest"), ("guest", "host")])
def test_a_call_arrives_on_the_other_side(device: HybridVsock, tmp_path: Path, here: str, there: str) -> None:
    with accepting(tmp_path / f"{there}_52") as listener, dial(tmp_path / here) as caller:
        caller.sendall(b"CONNECT 52\n")
        with accept(listener) as called:
            assert re.fullmatch(rb"OK 10737418[0-9]{2}\n", caller.recv(100))
            caller.sendall(b"there")
            assert called.recv(100) == b"there"
            called.sendall(b"and back")
            assert caller.recv(100) == b"and back"


def test_what_is_sent_with_the_call_is_the_streams(device: HybridVsock, tmp_path: Path) -> None:
    with accepting(tmp_path / "guest_52") as listener, dial(tmp_path / "host") as caller:
        caller.sendall(b"CONNECT 52\nCONNECT 53\nfirst words")
        caller.shutdown(socket.SHUT_WR)
        with accept(listener) as called, called.makefile("rb") as stream:
            assert stream.read() == b"CONNECT 53\nfirst words"


def test_each_side_ends_for_itself(device: HybridVsock, tmp_path: Path) -> None:
    with accepting(tmp_path / "guest_52") as listener, dial(tmp_path / "host") as caller:
        caller.sendall(b"CONNECT 52\n")
        with accept(listener) as called, caller.makefile("rb") as stream:
            assert stream.readline().startswith(b"OK ")
            called.sendall(b"all of it")
            called.shutdown(socket.SHUT_WR)
            assert stream.read() == b"all of it"
            caller.sendall(b"thanks")
            caller.shutdown(socket.SHUT_WR)
            assert read_exactly(called, 6) == b"thanks"
            assert called.recv(1) == b""


@pytest.mark.parametrize(
    "said",
    [
        *(b"CONNECT 53\n", b"CONNECT\n", b"CONNECT -1\n", b"CONNECT 4294967295\n", b"\n", b"GET / HTTP/1.1\r\n\r\n"),
        b"CONNECT " + b"5" * 100_000,
    ],
)
def test_who_calls_in_vain_is_hung_up_on_without_a_word(device: HybridVsock, tmp_path: Path, said: bytes) -> None:
    with accepting(tmp_path / "guest_52"):
        with dial(tmp_path / "host") as caller:
            caller.sendall(said)
            # A reset when what was sent is not read to its end.
            with suppress(ConnectionResetError):
                assert caller.recv(1) == b""
        # Nobody else is harmed.
        with dial(tmp_path / "host") as caller:
            caller.sendall(b"CONNECT 52\n")
            assert caller.recv(3) == b"OK "


def test_who_never_says_a_port_is_hung_up_on(
    device: HybridVsock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CALL_SECONDS", 0.1)
    with dial(tmp_path / "host") as caller:
        caller.sendall(b"CONNECT 5")
        assert caller.recv(1) == b""


@pytest.mark.parametrize("leaves", ["caller", "called"])
def test_a_side_that_breaks_off_ends_the_other(device: HybridVsock, tmp_path: Path, leaves: str) -> None:
    with accepting(tmp_path / "guest_52") as listener, dial(tmp_path / "host") as caller:
        caller.sendall(b"CONNECT 52\n")
        with accept(listener) as called:
            assert read_exactly(caller, 14).startswith(b"OK ")
            gone, left = (caller, called) if leaves == "caller" else (called, caller)
            # Bytes that nobody read make the end of a Unix socket a reset.
            left.sendall(b"x" * 100_000)
            gone.recv(1)
            gone.close()
            with suppress(ConnectionResetError):
                while left.recv(65536):
                    pass


def test_many_calls_at_once(device: HybridVsock, tmp_path: Path) -> None:
    count = 100

    def echo() -> None:
        with ExitStack() as stack:
            connections = [stack.enter_context(accept(listener)) for _ in range(count)]
            for connection in connections:
                write_all(connection, read_exactly(connection, 1000))

    with accepting(tmp_path / "host_9") as listener, ExitStack() as stack:
        thread = threading.Thread(target=echo)
        thread.start()
        address = Address("vsock+unix", path=str(tmp_path / "guest"), port=9)
        callers = [stack.enter_context(connect(address, timeout=5)) for _ in range(count)]
        for number, caller in enumerate(callers):
            write_all(caller, bytes([number]) * 1000)
        for number, caller in enumerate(callers):
            assert read_exactly(caller, 1000) == bytes([number]) * 1000
        thread.join()


def test_its_end_cuts_every_connection_and_leaves_no_file(tmp_path: Path) -> None:
    with accepting(tmp_path / "guest_52") as listener:
        with HybridVsock(host=tmp_path / "host", guest=tmp_path / "guest"):
            caller = dial(tmp_path / "host")
            caller.sendall(b"CONNECT 52\n")
            called = accept(listener)
            assert read_exactly(caller, 14).startswith(b"OK ")
        with caller, called:
            assert caller.recv(1) == b""
            assert called.recv(1) == b""
        assert {file.name for file in tmp_path.iterdir()} == {"guest_52"}


def test_a_path_in_use_goes_on_working(device: HybridVsock, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HybridVsock(host=tmp_path / "other", guest=tmp_path / "guest")
    assert caught.value.code == "address.in_use"
    assert not (tmp_path / "other").exists()
    with accepting(tmp_path / "host_52"), dial(tmp_path / "guest") as caller:
        caller.sendall(b"CONNECT 52\n")
        assert caller.recv(3) == b"OK "


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("unix:///e", "vsock://2:5001"),
        ("vsock://any:5000", "tcp://127.0.0.1:5001"),
        ("vsock://any:0", "vsock://2:5001"),
        ("vsock://any:5000", "vsock://2:0"),
        ("vsock://any:5000", "vsock://16:5001"),
    ],
)
def test_an_enclave_on_a_vsock_has_vsock_addresses(tmp_path: Path, listen: str, host: str) -> None:
    configuration = tmp_path / "enclave.json"
    configuration.write_text(json.dumps({"model_owner": "00" * 32}))
    with pytest.raises(ConfigurationError) as caught:
        LocalEnclave(
            configuration=configuration,
            listen=Address.parse(listen),
            host=Address.parse(host),
            root=DevelopmentRoot.create(),
            vsock=tmp_path / "v",
        )
    assert caught.value.code == "enclave.vsock"
    assert not (tmp_path / "v").exists()
