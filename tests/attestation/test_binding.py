from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import KeyReleaseBinding, SessionBinding
from ephemeralml.codec import cbor
from ephemeralml.errors import AttestationError

SESSION = SessionBinding(hpke=b"h" * 32, model=b"m" * 32, config=b"c" * 32, boot=b"b" * 16)
RELEASE = KeyReleaseBinding(package=b"p" * 16, model=b"m" * 32)


def test_the_user_data_is_the_map_of_the_design() -> None:
    assert cbor.decode(SESSION.to_user_data()) == {
        "purpose": "session",
        "hpke": b"h" * 32,
        "model": b"m" * 32,
        "config": b"c" * 32,
        "boot": b"b" * 16,
    }
    assert cbor.decode(RELEASE.to_user_data()) == {"purpose": "key-release", "package": b"p" * 16, "model": b"m" * 32}


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_round_trip(digest: bytes, short: bytes) -> None:
    session = SessionBinding(hpke=digest, model=digest, config=digest, boot=short)
    assert SessionBinding.from_user_data(session.to_user_data()) == session
    release = KeyReleaseBinding(package=short, model=digest)
    assert KeyReleaseBinding.from_user_data(release.to_user_data()) == release


def test_purposes_never_mix() -> None:
    with pytest.raises(AttestationError):
        SessionBinding.from_user_data(RELEASE.to_user_data())
    with pytest.raises(AttestationError):
        KeyReleaseBinding.from_user_data(SESSION.to_user_data())


@pytest.mark.parametrize(
    "change", [{"purpose": "key-release"}, {"purpose": 1}, {"extra": 1}, {"hpke": b"h" * 31}, {"boot": "b" * 16}]
)
def test_exact_keys_and_sizes(change: dict[str, Any]) -> None:
    fields: Any = cbor.decode(SESSION.to_user_data())
    with pytest.raises(AttestationError) as caught:
        SessionBinding.from_user_data(cbor.encode({**fields, **change}))
    assert (caught.value.step, caught.value.code) == ("key binding", "key_binding.user_data")


@pytest.mark.parametrize("data", [None, b"", b"\x80", b"\xa0", SESSION.to_user_data() + b"\x00", b"x" * 2000])
def test_anything_else_is_refused(data: bytes | None) -> None:
    with pytest.raises(AttestationError):
        SessionBinding.from_user_data(data)


def test_a_second_spelling_is_refused() -> None:
    body = SESSION.to_user_data()[1:]
    with pytest.raises(AttestationError):
        SessionBinding.from_user_data(b"\xbf" + body + b"\xff")


def test_wrong_sizes_are_never_written() -> None:
    with pytest.raises(ValueError, match="hpke must be 32 bytes"):
        SessionBinding(hpke=b"", model=b"m" * 32, config=b"c" * 32, boot=b"b" * 16).to_user_data()
    with pytest.raises(ValueError, match="package must be 16 bytes"):
        KeyReleaseBinding(package=b"", model=b"m" * 32).to_user_data()
