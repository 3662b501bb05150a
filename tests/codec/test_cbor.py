from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError

KEYS = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=30)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)

# RFC 8949 appendix A, those within the subset.
RFC_8949: list[tuple[object, str]] = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (255, "18ff"),
    (256, "190100"),
    (65535, "19ffff"),
    (65536, "1a00010000"),
    (2**32 - 1, "1affffffff"),
    (2**32, "1b0000000100000000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-24, "37"),
    (-25, "3818"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (bytes.fromhex("01020304"), "4401020304"),
    ("", "60"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
]


def head(major: int, argument: int) -> bytes:
    """Shortest head of RFC 8949 section 3, written apart from the code under test."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, width in ((24, 1), (25, 2), (26, 4)):
        if argument < 1 << 8 * width:
            return bytes([major << 5 | code]) + argument.to_bytes(width)
    return bytes([major << 5 | 27]) + argument.to_bytes(8)


def refused(data: bytes, *, foreign: bool = False) -> str:
    with pytest.raises(CodecError) as caught:
        (cbor.decode_foreign if foreign else cbor.decode)(data)
    return caught.value.code


@pytest.mark.parametrize(("value", "encoding"), RFC_8949)
def test_rfc_8949_examples(value: object, encoding: str) -> None:
    data = bytes.fromhex(encoding)
    assert cbor.encode(value) == data
    for read in (cbor.decode, cbor.decode_foreign):
        back = read(data)
        assert back == value
        assert type(back) is type(value)


@given(VALUES)
def test_round_trip(value: object) -> None:
    data = cbor.encode(value)
    back = cbor.decode(data)
    assert back == value
    assert cbor.encode(back) == data
    assert cbor.decode_foreign(data) == value


@given(st.dictionaries(KEYS, st.integers(0, 23), max_size=20), st.randoms())
def test_the_order_of_insertion_does_not_show(value: dict[int | str, int], rng: random.Random) -> None:
    entries = list(value.items())
    rng.shuffle(entries)
    assert cbor.encode(dict(entries)) == cbor.encode(value)


@given(st.binary(max_size=200))
@example(b"\x9f\xff")
@example(b"\xbf\x01\xff")
@example(b"\x82\xff\xff")
@example(b"\xff")
def test_any_bytes_give_the_value_or_a_codec_error(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except CodecError:
        pass
    else:
        assert cbor.encode(value) == data
    try:
        foreign = cbor.decode_foreign(data)
    except CodecError:
        return
    assert cbor.decode(cbor.encode(foreign)) == foreign


@given(VALUES, st.data())
def test_mutations_never_give_a_second_spelling(value: object, data: st.DataObject) -> None:
    encoding = bytearray(cbor.encode(value))
    encoding[data.draw(st.integers(0, len(encoding) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = cbor.decode(bytes(encoding))
    except CodecError:
        return
    assert cbor.encode(back) == encoding


LONGER_HEADS = [
    (0, 24),
    (1, 24),
    (23, 24),
    *((argument, code) for argument in (0, 1, 24, 255) for code in (25, 26, 27)),
]


@pytest.mark.parametrize("major", range(6))
@pytest.mark.parametrize(("argument", "code"), LONGER_HEADS)
def test_longer_heads_than_needed_are_refused(major: int, argument: int, code: int) -> None:
    longer = bytes([major << 5 | code]) + argument.to_bytes(1 << (code - 24))
    shortest = head(major, argument)
    body = {2: b"x" * argument, 3: b"x" * argument, 4: b"\x00" * argument}.get(major, b"")
    if major == 5:
        body = b"".join(head(0, key) + b"\x00" for key in range(argument))
    if major < 5 or argument:
        assert cbor.decode(shortest + body) == cbor.decode_foreign(longer + body)
    assert refused(longer + body) == "cbor.order"


@pytest.mark.parametrize(
    "data", ["9fff", "9f01ff", "bfff", "bf0102ff", "5fff", "5f4101ff", "7fff", "7f6161ff", "819fff"]
)
def test_indefinite_lengths_are_for_foreign_data_only(data: str) -> None:
    assert refused(bytes.fromhex(data)) == "cbor.malformed"
    cbor.decode_foreign(bytes.fromhex(data))


def test_foreign_indefinite_values() -> None:
    assert cbor.decode_foreign(bytes.fromhex("bf6161016162 9f0203ff ff")) == {"a": 1, "b": [2, 3]}
    assert cbor.decode_foreign(bytes.fromhex("5f42010243030405ff")) == bytes([1, 2, 3, 4, 5])
    assert cbor.decode_foreign(bytes.fromhex("a2616201616102")) == {"b": 1, "a": 2}


@pytest.mark.parametrize("data", ["5f6161ff", "7f4101ff", "5f5f4101ffff", "bf01ff", "9f", "bf", "5f", "ff", "82ffff"])
def test_malformed_indefinite_lengths(data: str) -> None:
    assert refused(bytes.fromhex(data), foreign=True) == "cbor.malformed"


def test_map_keys_are_in_bytewise_order_of_their_encodings() -> None:
    keys: list[int | str] = [10, 100, -1, "z", "aa"]  # the example of RFC 8949 section 4.2.1, within the subset
    assert cbor.encode(dict.fromkeys(reversed(keys), 0)) == bytes.fromhex("a5 0a00 186400 2000 617a00 62616100")
    assert refused(bytes.fromhex("a2 186400 0a00")) == "cbor.order"
    assert refused(bytes.fromhex("a2 626161 00 617a 00")) == "cbor.order"
    assert refused(bytes.fromhex("81 a2 02000100")) == "cbor.order"


@pytest.mark.parametrize("data", ["a201000100", "a2616100616100", "a2 2000 2000", "a1 01 a2 00000000", "bf01000100ff"])
def test_duplicate_keys(data: str) -> None:
    assert refused(bytes.fromhex(data), foreign=True) == "cbor.malformed"
    assert refused(bytes.fromhex(data)) == "cbor.malformed"


@pytest.mark.parametrize("key", ["f5", "f6", "4100", "80", "a0", "8101", "f90000"])
def test_keys_are_integers_or_text(key: str) -> None:
    data = bytes.fromhex(f"a1{key}00")
    assert refused(data) == refused(data, foreign=True) == "cbor.key"


@pytest.mark.parametrize("data", ["f7", "e0", "f8ff", "f90000", "f97e00", "fa3f800000", "fb3ff0000000000000", "81f7"])
def test_simple_values_and_floats_are_outside_the_subset(data: str) -> None:
    assert refused(bytes.fromhex(data)) == refused(bytes.fromhex(data), foreign=True) == "cbor.type"


@pytest.mark.parametrize("data", ["", "18", "1900", "41", "61", "81", "a1", "a101", "1c", "fc", "f800", "f818", "61ff"])
def test_malformed(data: str) -> None:
    assert refused(bytes.fromhex(data)) == refused(bytes.fromhex(data), foreign=True) == "cbor.malformed"


@pytest.mark.parametrize(
    "data", ["9b7fffffffffffffff", "5b7fffffffffffffff", "7b7fffffffffffffff", "bb7fffffffffffffff"]
)
def test_promised_lengths_allocate_nothing(data: str) -> None:
    assert refused(bytes.fromhex(data)) == "cbor.malformed"


@pytest.mark.parametrize("foreign", [False, True])
def test_every_sampled_tag_is_refused(foreign: bool) -> None:
    known = {*range(1100), 1040, 43000, *range(55795, 55805), *range(65530, 65540), 2**32 - 1, 2**63, 2**64 - 1}
    for tag in sorted(known | set(random.Random(0).sample(range(70_001), 5000))):
        for body in ("00", "6161", "41ff", "80", "820101", "a0"):
            assert refused(head(6, tag) + bytes.fromhex(body), foreign=foreign) == "cbor.tag", (tag, body)
    assert refused(bytes.fromhex("81c000"), foreign=foreign) == "cbor.tag"
    assert refused(bytes.fromhex("a1c00000"), foreign=foreign) == "cbor.tag"


@given(VALUES, st.binary(min_size=1, max_size=8))
def test_trailing_bytes(value: object, tail: bytes) -> None:
    assert refused(cbor.encode(value) + tail) == refused(cbor.encode(value) + tail, foreign=True) == "cbor.trailing"


def test_depth() -> None:
    deepest: object = 1
    for _ in range(cbor.MAX_DEPTH):
        deepest = [deepest]
    data = cbor.encode(deepest)
    assert cbor.decode(data) == deepest
    with pytest.raises(CodecError) as caught:
        cbor.encode([deepest])
    assert caught.value.code == "cbor.depth"
    assert refused(b"\x81" + data) == "cbor.malformed"
    assert refused(b"\x81" * 1000 + b"\x00") == "cbor.malformed"
    assert refused(b"\x9f" * 1000, foreign=True) == "cbor.malformed"


def test_items_are_counted_before_any_is_built() -> None:
    most = [0] * (cbor.MAX_ITEMS - 1)
    assert cbor.decode(cbor.encode(most)) == most
    assert refused(cbor.encode([*most, 0])) == "cbor.items"
    assert refused(b"\x81" * 100_000 + b"\x00") == "cbor.items"
    assert refused(b"\x9f" * 100_000, foreign=True) == "cbor.items"
    # Bytes inside a string are no items.
    assert cbor.decode(cbor.encode(b"\x00" * 100_000)) == b"\x00" * 100_000


def test_a_format_of_many_items_may_ask_for_more() -> None:
    numbers = cbor.encode([7] * 8000)
    for allowed in (4096, 8000):
        with pytest.raises(CodecError) as caught:
            cbor.decode_foreign(numbers, max_items=allowed)
        assert caught.value.code == "cbor.items"
    assert cbor.decode_foreign(numbers, max_items=8001) == [7] * 8000


def test_size_limit() -> None:
    assert cbor.decode(b"\x42ab", limit=3) == b"ab"
    for read in (cbor.decode, cbor.decode_foreign):
        with pytest.raises(CodecError) as caught:
            read(b"\x42ab", limit=2)
        assert caught.value.code == "cbor.size"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (2**64, "cbor.integer"),
        (-(2**64) - 1, "cbor.integer"),
        (1.0, "cbor.type"),
        ((1,), "cbor.type"),
        ({1}, "cbor.type"),
        (bytearray(1), "cbor.type"),
        (object(), "cbor.type"),
        ({True: 1}, "cbor.key"),
        ({None: 1}, "cbor.key"),
        ({b"a": 1}, "cbor.key"),
        ({2**64: 1}, "cbor.integer"),
        ("\ud800", "cbor.text"),
        ({"\ud800": 1}, "cbor.text"),
    ],
)
def test_what_cannot_be_encoded(value: object, code: str) -> None:
    for nested in (value, [value], {1: value}):
        with pytest.raises(CodecError) as caught:
            cbor.encode(nested)
        assert caught.value.code == code


def test_the_tag_table_shows_no_entries() -> None:
    table = cbor._NO_TAGS
    assert list(table) == []
    # cbor2 takes an empty table for none at all.
    assert table


def test_an_exception_from_a_signals_handler_is_not_lost_with_a_list() -> None:
    # cbor2 drops, and prints with the list, what is raised while it asks an abstract base class about one.
    called: list[str] = []
    sys.setprofile(lambda frame, _event, _argument: called.append(frame.f_code.co_name))
    try:
        data = cbor.encode({"texts": ["a secret", ["another"]]})
        cbor.decode(data)
    finally:
        sys.setprofile(None)
    assert "__instancecheck__" not in called
