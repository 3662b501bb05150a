"""API keys: made once, kept as hashes, and nothing lets in whoever has none."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from ephemeralml.errors import ConfigurationError
from ephemeralml.gateway.keys import ApiKeys, make_key


def test_a_key_that_was_made_is_admitted_and_nothing_like_it(tmp_path: Path) -> None:
    first, second = (make_key(tmp_path / "keys", name) for name in ("a", "b"))
    keys = ApiKeys.load(tmp_path / "keys")
    assert keys.admit(f"Bearer {first}")
    assert keys.admit(f"bearer {second}")
    for wrong in ("", "Bearer", "Bearer ", first, f"Basic {first}", f"Bearer {first[:-1]}", "Bearer \udcff"):
        assert not keys.admit(wrong)
    # What the file holds is no key.
    assert not keys.admit(f"Bearer {sha256(first.encode()).hexdigest()}")


def test_the_file_holds_no_key_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = make_key(path, "notebook")
    assert path.read_text() == f"{sha256(key.encode()).hexdigest()} notebook\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(key) > 40


@pytest.mark.parametrize("content", ["", "# none\n\n", "abc notebook\n", f"{'0' * 64}\n", f"{'0' * 63}g x\n", "\xff"])
def test_a_file_that_would_let_in_nobody_or_anybody_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        ApiKeys.load(tmp_path / "keys")
    assert caught.value.code == "gateway.keys"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        ApiKeys.load(tmp_path / "keys")


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "é", "x" * 65])
def test_a_name_that_would_break_the_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        make_key(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()
