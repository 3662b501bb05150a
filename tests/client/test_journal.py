"""What a killed run has so far is found again, and nothing that is not whole or not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.client.journal import Journal
from ephemeralml.errors import ConfigurationError

RECORDS = [(b"vectors" * 100, b"bundle"), (b"", b""), (b"v" * 5000, b"b" * 3000)]
IDENTITY = b"i" * 32


def write(path: Path) -> None:
    with Journal(path, identity=IDENTITY) as journal:
        for record in RECORDS:
            journal.append(*record)


def test_records_are_found_again_and_gone_on_with(tmp_path: Path) -> None:
    write(tmp_path / "j")
    with Journal(tmp_path / "j", identity=IDENTITY) as journal:
        assert journal.records == 3
        journal.append(b"more", b"of it")
        assert list(journal) == [*RECORDS, (b"more", b"of it")]
        journal.remove()
    assert list(tmp_path.iterdir()) == []


@given(data=st.data())
def test_what_is_not_whole_is_cut_off(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with Journal(path, identity=IDENTITY) as journal:
        left = list(journal)
        assert left == RECORDS[: journal.records]
        assert journal.records < 3
        for record in RECORDS[journal.records :]:
            journal.append(*record)
    assert path.read_bytes() == content


@given(data=st.data())
def test_what_was_changed_is_not_taken(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    write(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with Journal(path, identity=IDENTITY) as journal:
            left = list(journal)
    except ConfigurationError:
        return
    assert left == RECORDS[: len(left)]
    assert len(left) < 3


def test_one_of_another_run_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "j")
    content = (tmp_path / "j").read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        Journal(tmp_path / "j", identity=b"o" * 32)
    assert caught.value.code == "embed.resume"
    assert (tmp_path / "j").read_bytes() == content


def test_two_runs_do_not_write_one(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", identity=IDENTITY), pytest.raises(ConfigurationError) as caught:
        Journal(tmp_path / "j", identity=IDENTITY)
    assert caught.value.code == "embed.running"


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    write(tmp_path / "j")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
