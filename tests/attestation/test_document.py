from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import AttestationDocument
from ephemeralml.codec import cbor, cose
from ephemeralml.errors import AttestationError

Forge = Callable[..., bytes]


def test_a_good_document_is_read_field_by_field(forge: Forge, now: datetime) -> None:
    raw = forge(user_data=b"", nonce=None)
    document = AttestationDocument.parse(raw)
    assert document.raw == raw
    assert document.sha256 == hashlib.sha256(raw).digest()
    assert document.module_id == "i-0-enc0"
    assert document.digest == "SHA384"
    assert now - document.timestamp < timedelta(milliseconds=1)
    assert document.timestamp.utcoffset() == timedelta(0)
    assert len(document.pcrs) == 16
    assert document.pcrs[0] == b"\x01" * 48
    assert len(document.cabundle) == 4
    assert (document.public_key, document.user_data, document.nonce) == (b"k" * 32, b"", None)
    assert not document.debug
    assert not document.nitrotpm


def test_equal_bytes_are_equal_documents_and_pcrs_cannot_be_changed(forge: Forge) -> None:
    raw = forge()
    document = AttestationDocument.parse(raw)
    assert document == AttestationDocument.parse(raw)
    assert hash(document) == hash(AttestationDocument.parse(raw))
    with pytest.raises(TypeError):
        document.pcrs[0] = bytes(48)  # type: ignore[index]


def test_an_indefinite_length_payload_is_read(forge: Forge, fields: dict[str, Any]) -> None:
    items = b"".join(cbor.encode(name) + cbor.encode(value) for name, value in fields.items())
    assert AttestationDocument.parse(forge(_payload=b"\xbf" + items + b"\xff")).public_key == b"k" * 32


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
def test_optional_fields_may_be_absent_or_1024_bytes(forge: Forge, name: str) -> None:
    assert getattr(AttestationDocument.parse(forge(_drop=name)), name) is None
    assert getattr(AttestationDocument.parse(forge(**{name: b"x" * 1024})), name) == b"x" * 1024


def test_debug_is_a_zero_pcr0(forge: Forge) -> None:
    assert AttestationDocument.parse(forge(pcrs={0: bytes(48)})).debug
    assert not AttestationDocument.parse(forge(pcrs={1: bytes(48)})).debug


def test_nitrotpm_registers_are_marked_as_such(forge: Forge) -> None:
    document = AttestationDocument.parse(forge(_drop="pcrs", nitrotpm_pcrs={0: b"t" * 48}))
    assert document.nitrotpm
    assert document.pcrs == {0: b"t" * 48}


BAD_FIELDS: list[tuple[str, object]] = [
    ("module_id", ""),
    ("module_id", b"i-0"),
    ("module_id", "i" * 257),
    ("module_id", "\x1b[2J"),
    ("module_id", "ü"),
    ("digest", "SHA256"),
    ("digest", None),
    ("timestamp", 0),
    ("timestamp", -1),
    ("timestamp", True),
    ("timestamp", "1"),
    ("timestamp", 2**63),
    ("pcrs", {}),
    ("pcrs", []),
    ("pcrs", {index: bytes(48) for index in range(33)}),
    ("pcrs", {32: bytes(48)}),
    ("pcrs", {-1: bytes(48)}),
    ("pcrs", {"0": bytes(48)}),
    ("pcrs", {0: bytes(32)}),
    ("pcrs", {0: "x" * 48}),
    ("certificate", b""),
    ("certificate", b"x" * 1025),
    ("certificate", None),
    ("cabundle", []),
    ("cabundle", None),
    ("cabundle", [b"x"] * 9),
    ("cabundle", [b""]),
    ("cabundle", ["x"]),
    ("cabundle", [b"x" * 1025]),
    ("public_key", b"x" * 1025),
    ("user_data", b"x" * 1025),
    ("nonce", b"x" * 1025),
    ("nonce", "text"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_a_field_of_the_wrong_type_or_size_is_refused(forge: Forge, name: str, value: object) -> None:
    with pytest.raises(AttestationError) as caught:
        AttestationDocument.parse(forge(**{name: value}))
    assert (caught.value.step, caught.value.code) == ("parse", f"parse.{name}")


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_a_missing_field_is_refused(forge: Forge, name: str) -> None:
    with pytest.raises(AttestationError) as caught:
        AttestationDocument.parse(forge(_drop=name))
    assert caught.value.code == "parse.fields"


@pytest.mark.parametrize("extra", [{"extra": 1}, {"nitrotpm_pcrs": {0: bytes(48)}}, {7: None}])
def test_an_unknown_field_is_refused(forge: Forge, fields: dict[str, Any], extra: dict[Any, Any]) -> None:
    with pytest.raises(AttestationError) as caught:
        AttestationDocument.parse(forge(_payload=cbor.encode({**fields, **extra})))
    assert caught.value.code == "parse.fields"


def test_another_algorithm_in_the_protected_header_is_refused(forge: Forge) -> None:
    for protected in ({1: -7}, {}, {1: -35, 3: 0}):
        with pytest.raises(AttestationError) as caught:
            AttestationDocument.parse(forge(_protected=protected))
        assert caught.value.code == "parse.algorithm"


def test_anything_in_the_unprotected_header_is_refused(forge: Forge) -> None:
    message = cose.parse(forge(), tagged=False, limit=1 << 15)
    raw = cbor.encode([message.protected, {4: b"kid"}, message.payload, message.signature])
    with pytest.raises(AttestationError) as caught:
        AttestationDocument.parse(raw)
    assert caught.value.code == "parse.unprotected"


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xa1\x00\x00\x00", b"\xa2\x01\x00\x01\x00"])
def test_a_payload_that_is_no_map_is_refused(forge: Forge, payload: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        AttestationDocument.parse(forge(_payload=payload))
    assert caught.value.code == "parse.payload"


def test_tagged_oversized_or_trailing_bytes_are_refused(forge: Forge) -> None:
    for raw in (b"\xd2" + forge(), forge() + b"\x00", forge() + bytes(1 << 15), b""):
        with pytest.raises(AttestationError) as caught:
            AttestationDocument.parse(raw)
        assert caught.value.code == "parse.cose"


@given(st.binary(max_size=4096))
def test_arbitrary_bytes_are_refused_with_the_typed_error(raw: bytes) -> None:
    with pytest.raises(AttestationError):
        AttestationDocument.parse(raw)


_OTHERS = ("module_id", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce")
_SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=60) | st.text(max_size=20)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-3, 40) | st.text(max_size=4), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"digest": st.just("SHA384")},
        optional=dict.fromkeys(_OTHERS, _VALUES),
    )
)
def test_arbitrary_fields_parse_or_raise_the_typed_error(payload: dict[str, object]) -> None:
    raw = cbor.encode([cbor.encode({1: -35}), {}, cbor.encode(payload), bytes(96)])
    try:
        document = AttestationDocument.parse(raw)
    except AttestationError:
        return
    assert document.pcrs.keys() <= set(range(32))
