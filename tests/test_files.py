"""Files appear whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from ephemeralml.files import whole_file, write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def no_space(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"


def test_a_stream_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with suppress(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with whole_file(path) as file:
        file.write(b"a whole")
        file.seek(0)
        assert file.read(1) == b"a"
        assert not path.exists()
    assert path.read_bytes() == b"a whole"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "nowhere" / "out"):
        pass
    assert caught.value.filename == str(tmp_path / "nowhere" / "out")
