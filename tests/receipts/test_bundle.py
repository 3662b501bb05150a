"""The bundle file: one encoding, limits, whole or not at all on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.errors import ReceiptError
from ephemeralml.receipts import Bundle
from ephemeralml.receipts.bundle import MAX_BUNDLE_BYTES

BUNDLE = Bundle(receipt=b"r" * 600, document=b"d" * 5000, manifest=b"m" * 900)
FIELDS = {
    "format": "ephemeralml-bundle",
    "version": 1,
    "receipt": b"r" * 600,
    "document": b"d" * 5000,
    "manifest": b"m" * 900,
}


def refused(data: bytes) -> str:
    with pytest.raises(ReceiptError) as caught:
        Bundle.from_bytes(data)
    assert caught.value.layer == 1
    return caught.value.code


def test_the_format_is_deterministic_cbor() -> None:
    assert BUNDLE.to_bytes() == cbor.encode(FIELDS)
    assert Bundle.from_bytes(BUNDLE.to_bytes()) == BUNDLE


def test_the_largest_parts_fit_and_no_larger() -> None:
    largest = Bundle(receipt=b"r" * 65_536, document=b"d" * 32_768, manifest=b"m" * 32_768)
    assert len(largest.to_bytes()) <= MAX_BUNDLE_BYTES
    assert Bundle.from_bytes(largest.to_bytes()) == largest
    for name, size in (("receipt", 65_537), ("document", 32_769), ("manifest", 65_537)):
        assert refused(cbor.encode({**FIELDS, name: bytes(size)})) == "BUNDLE_FIELDS"
    assert refused(bytes(MAX_BUNDLE_BYTES + 1)) == "BUNDLE_TOO_LARGE"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"format": "ephemeralml-manifest"}, "BUNDLE_FORMAT"),
        ({"format": None}, "BUNDLE_FORMAT"),
        ({"version": 2}, "BUNDLE_VERSION"),
        ({"version": True}, "BUNDLE_VERSION"),
        ({"version": "1"}, "BUNDLE_VERSION"),
        ({"proof": b"x"}, "BUNDLE_FIELDS"),
        ({1: b"x"}, "BUNDLE_FIELDS"),
        *(
            ({name: value}, "BUNDLE_FIELDS")
            for name in ("receipt", "document", "manifest")
            for value in (b"", "x", None)
        ),
    ],
)
def test_a_field_that_is_not_the_formats_is_refused(change: dict[Any, Any], code: str) -> None:
    assert refused(cbor.encode({**FIELDS, **change})) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("format", "BUNDLE_FORMAT"),
        ("version", "BUNDLE_VERSION"),
        ("receipt", "BUNDLE_FIELDS"),
        ("document", "BUNDLE_FIELDS"),
        ("manifest", "BUNDLE_FIELDS"),
    ],
)
def test_a_missing_field_is_refused(name: str, code: str) -> None:
    assert refused(cbor.encode({key: value for key, value in FIELDS.items() if key != name})) == code


def test_bytes_that_are_not_the_encoding_are_refused() -> None:
    data = BUNDLE.to_bytes()
    assert refused(b"") == "BUNDLE_MALFORMED"
    assert refused(data[:-1]) == "BUNDLE_MALFORMED"
    assert refused(data + b"\x00") == "BUNDLE_MALFORMED"
    assert refused(b"\xbf" + data[1:] + b"\xff") == "BUNDLE_MALFORMED"
    assert refused(cbor.encode([BUNDLE.receipt])) == "BUNDLE_FORMAT"


@given(data=st.binary(max_size=300))
def test_any_bytes_raise_only_receipt_errors(data: bytes) -> None:
    assert refused(data).startswith("BUNDLE_")


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "answer.aer"
    path.write_bytes(b"older")
    BUNDLE.save(path)
    assert Bundle.load(str(path)) == BUNDLE
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answer.aer"
    path.write_bytes(b"older")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReceiptError, match="No space left") as caught:
        BUNDLE.save(path)
    assert caught.value.code == "BUNDLE_WRITE"
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == {"answer.aer": b"older"}


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        BUNDLE.save(tmp_path / "answer.aer")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_work_are_typed(tmp_path: Path) -> None:
    with pytest.raises(ReceiptError) as caught:
        BUNDLE.save(tmp_path / "missing" / "answer.aer")
    assert caught.value.code == "BUNDLE_WRITE"
    for path in (tmp_path / "missing.aer", tmp_path):
        with pytest.raises(ReceiptError) as caught:
            Bundle.load(path)
        assert (caught.value.layer, caught.value.code) == (1, "BUNDLE_READ")


def test_load_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "endless.aer"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ReceiptError) as caught:
        Bundle.load(path)
    assert caught.value.code == "BUNDLE_TOO_LARGE"
