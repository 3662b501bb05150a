"""What was checked is what is used: another file in its place is found, wherever it was put there."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from ephemeralml.errors import ImageError
from ephemeralml.image import rootfs
from ephemeralml.image.checked import checked_copy
from ephemeralml.image.inside import compile_folder


def test_a_copy_stays_what_it_was_when_the_cache_changes(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"good")
    copy = checked_copy(tmp_path / "a.whl", tmp_path / "own", sha256(b"good").hexdigest())
    (tmp_path / "a.whl").write_bytes(b"evil")
    assert copy.read_bytes() == b"good"


def test_a_file_that_was_put_in_its_place_after_the_check_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"evil")
    with pytest.raises(ImageError, match="changed while it was used") as raised:
        checked_copy(tmp_path / "a.whl", tmp_path / "own", sha256(b"good").hexdigest())
    assert raised.value.code == "image.hash"
    assert list((tmp_path / "own").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/hostname", "../../secret", "sub/../../../secret"])
def test_a_link_to_the_builders_own_files_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "root" / "usr").mkdir(parents=True)
    (tmp_path / "root" / "usr" / "good").symlink_to("../usr/lib")
    rootfs.check_links(tmp_path / "root")
    (tmp_path / "root" / "usr" / "plugin.py").symlink_to(target)
    with pytest.raises(ImageError, match=r"usr/plugin.py is a link out of the image") as raised:
        rootfs.check_links(tmp_path / "root")
    assert raised.value.code == "image.link"


def test_nothing_is_compiled_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.py").write_text("SECRET = 1")
    (tmp_path / "root" / "plugin.py").symlink_to(tmp_path / "secret.py")
    compile_folder(tmp_path / "root", "/app/")
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["plugin.py"]
