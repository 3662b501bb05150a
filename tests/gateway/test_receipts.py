"""The latest receipts: whole, bounded, and with nothing in the file that no receipt needs."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.gateway.receipts import Receipts
from ephemeralml.receipts import Bundle, Receipt


@dataclass
class _Claims:
    attestation_doc_hash: bytes


def made(number: int, session: int = 0) -> tuple[Receipt, Bundle]:
    bundle = Bundle(receipt=b"receipt %d" % number, document=b"document %d" % session, manifest=b"manifest")
    claims: Any = _Claims(sha256(bundle.document).digest())
    return Receipt(bundle.receipt, claims), bundle


def test_a_bundle_comes_back_by_its_receipts_hash(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "r.sqlite", keep=10)
    kept = {receipts.add(*made(number, number // 3)): made(number, number // 3)[1] for number in range(6)}
    receipts.close()
    again = Receipts(tmp_path / "r.sqlite", keep=10)
    for identifier, bundle in kept.items():
        assert identifier == sha256(bundle.receipt).hexdigest()
        assert again.get(identifier) == bundle
    assert again.get("00") is again.get("zz") is None
    again.close()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_oldest_are_dropped_and_their_evidence_with_them(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "r.sqlite", keep=3)
    identifiers = [receipts.add(*made(number, session=number)) for number in range(10)]
    assert [receipts.get(identifier) is not None for identifier in identifiers] == [False] * 7 + [True] * 3
    receipts.close()
    with sqlite3.connect(tmp_path / "r.sqlite") as connection:
        [(documents,)] = connection.execute("SELECT count(*) FROM evidence")
    connection.close()
    assert documents == 3


def test_threads_share_it() -> None:
    receipts = Receipts(keep=1000)
    kept: list[str] = []

    def add(start: int) -> None:
        kept.extend(receipts.add(*made(start + number)) for number in range(50))

    threads = [threading.Thread(target=add, args=(50 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 400
    assert all(receipts.get(identifier) is not None for identifier in kept)
    receipts.close()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_bytes(b"something else" * 100)
    for path in (tmp_path / "r.sqlite", tmp_path / "no" / "r.sqlite"):
        with pytest.raises(ConfigurationError) as caught:
            Receipts(path, keep=1)
        assert caught.value.code == "gateway.receipts"


def test_what_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "r.sqlite", keep=10_000)
    # As a full disk does: no page more than there are.
    cast("Any", receipts)._connection.execute("PRAGMA max_page_count = 1")

    def fill() -> None:
        for number in range(1000):
            receipts.add(*made(number, session=number))

    with pytest.raises(EphemeralMLError) as caught:
        fill()
    assert caught.value.code == "gateway.receipts"
    receipts.close()
