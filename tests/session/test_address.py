from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeralml.errors import ConfigurationError
from ephemeralml.session.address import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7001", Address("tcp", host="127.0.0.1", port=7001)),
        ("tcp://127.0.0.1:7001/", Address("tcp", host="127.0.0.1", port=7001)),
        ("tcp://example.com:0", Address("tcp", host="example.com", port=0)),
        ("tcp://[::1]:80", Address("tcp", host="::1", port=80)),
        ("vsock://3:5000", Address("vsock", cid=3, port=5000)),
        ("vsock://any:0", Address("vsock", cid=2**32 - 1, port=0)),
        ("vsock://4294967295:4294967294", Address("vsock", cid=2**32 - 1, port=2**32 - 2)),
        ("vsock+unix:///run/v.sock:5000", Address("vsock+unix", path="/run/v.sock", port=5000)),
        ("vsock+unix:///run/a:1:2", Address("vsock+unix", path="/run/a:1", port=2)),
        ("unix:///run/e.sock", Address("unix", path="/run/e.sock")),
        ("unix:///run/a b?c#d%20.sock", Address("unix", path="/run/a b?c#d%20.sock")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp", "tcp://", "tcp://host", "tcp://host:", "tcp://:80", "tcp://host:65536", "tcp://host:-1"),
        *("tcp://host:x", "tcp://host:80/path", "tcp://host:80?q", "tcp://host:80#f", "tcp://user@host:80"),
        *("tcp://[::1:80", "http://host:80", "127.0.0.1:80", "unix://relative", "unix://host/path", "unix:/path"),
        *("unix:///" + "x" * 107, "unix:///a\0b", "tcp://a\0b:80"),
        *(
            "vsock://3",
            "vsock://:5",
            "vsock://host:5",
            "vsock://-1:5",
            "vsock://3:-1",
            "vsock://4294967296:5",
            "vsock:3:5",
        ),
        *(
            "vsock:3:5",
            "vsock://3:4294967295",
            "vsock://3:99999999999",
            "vsock://3:5/",
            "vsock://³:5",
            "vsock+unix://run:5",
        ),
        *("vsock+unix:///run", "vsock+unix:///run:", "vsock+unix:///run:0", "vsock+unix:///run:4294967295"),
        *("vsock+unix:///a\0b:5", "vsock+unix:///" + "x" * 102 + ":5000", "vsock+unix://"),
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(text)
    assert caught.value.code == "address.malformed"


@pytest.mark.parametrize(("text", "path"), [("unix:///a", "/a"), ("vsock+unix:///a:5", "/a_5"), ("vsock://3:5", "")])
def test_the_socket_file_of_a_listener(text: str, path: str) -> None:
    assert Address.parse(text).listening_path == path


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        *[(f"tcp://{host}:1", True) for host in ("127.0.0.1", "127.8.0.1", "[::1]", "localhost")],
        *[(f"tcp://{host}:1", False) for host in ("0.0.0.0", "[::]", "127.0.0.1.example")],
        *(("unix:///s", True), ("vsock://3:5", False), ("vsock+unix:///s:5", False)),
    ],
)
def test_what_only_this_machine_reaches(listen: str, local: bool) -> None:
    assert Address.parse(listen).is_local is local


@given(
    st.text()
    | st.text().map("tcp://{}:1".format)
    | st.text().map("unix:///{}".format)
    | st.tuples(st.text() | st.integers(0), st.text() | st.integers(0)).map("vsock://{0[0]}:{0[1]}".format)
    | st.tuples(st.text(), st.text() | st.integers(0)).map("vsock+unix:///{0[0]}:{0[1]}".format)
)
@example("tcp://..:1")
@example(f"tcp://{'x' * 64}.y:1")
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        address = Address.parse(text)
        assert Address.parse(str(address)) == address
