"""Wheels by hash: lists, archives that leave their folder, and files that are not what the list says."""

from __future__ import annotations

import warnings
import zipfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from ephemeralml.errors import ImageError
from ephemeralml.image import wheels
from ephemeralml.image.wheels import Wheel

_RUNTIME = Path(__file__).parents[2] / "requirements" / "runtime.txt"
_RECIPE = Path(__file__).parents[2] / "deploy" / "image"


def make(path: Path, files: dict[str, bytes], *, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content)
    return path


def test_each_pinned_wheel_is_one_that_the_tests_run() -> None:
    pins = _RUNTIME.read_text()
    listed = Wheel.read_list(_RECIPE / "wheels.txt")
    assert {wheel.name for wheel in listed} == {"cbor2", "cffi", "cryptography", "numpy", "onnxruntime", "tokenizers"}
    for wheel in listed:
        assert f"\n{wheel.name}=={wheel.version} " in pins
        assert f"--hash=sha256:{wheel.sha256}" in pins


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy==2.5.5",
        "numpy>=2 --hash=sha256:" + "0" * 64,
        "numpy==2.5.5 --hash=md5:" + "0" * 32,
        "--index-url=elsewhere",
        "numpy==2.5.5 --hash=sha256:" + "0" * 64 + " --hash=sha256:" + "1" * 64,
    ],
)
def test_a_line_without_one_version_and_one_hash_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "wheels.txt").write_text(f"# fine\n\n{line}\n")
    with pytest.raises(ImageError, match="line 3") as raised:
        Wheel.read_list(tmp_path / "wheels.txt")
    assert raised.value.code == "image.packages"


def test_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    wheel = make(tmp_path / "a.whl", {"a/__init__.py": b"1", "a/tests/x.py": b"2"})
    wheels.unpack(wheel, tmp_path / "out", wanted=lambda path: "tests" not in path)
    assert [path.name for path in (tmp_path / "out").rglob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("name", ["../out.py", "/etc/passwd", "a/../../b", "a//b", "a\\b"])
def test_a_file_outside_the_folder_is_refused_wanted_or_not(tmp_path: Path, name: str) -> None:
    wheel = make(tmp_path / "a.whl", {name: b""})
    with pytest.raises(ImageError, match="not a wheel") as raised:
        wheels.unpack(wheel, tmp_path / "out", wanted=lambda _: False)
    assert raised.value.code == "image.packages"


def test_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="may not be in it"):
        wheels.unpack(make(tmp_path / "a.whl", {"a": b"/etc"}, mode=0o120777), tmp_path / "out")


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"no zip")
    with pytest.raises(ImageError, match="not a wheel"):
        wheels.unpack(tmp_path / "a.whl", tmp_path / "out")
    with pytest.raises(ImageError, match="METADATA"):
        wheels.metadata(make(tmp_path / "b.whl", {"a": b""}))


def test_a_cached_file_that_was_changed_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make(tmp_path / "right.whl", {"a": b""}).read_bytes()
    wheel = Wheel("a", "1", sha256(content).hexdigest())

    def pip(_requirements: Path, into: Path, *_options: str) -> None:
        (into / "a-1-py3-none-any.whl").write_bytes(content)

    monkeypatch.setattr(wheels, "download", pip)
    (path,) = wheels.fetch([wheel], cache=tmp_path / "cache")
    path.write_bytes(b"changed")
    heard: list[str] = []
    assert wheels.fetch([wheel], cache=tmp_path / "cache", on_fetch=lambda wheel: heard.append(wheel.name)) == [path]
    assert (path.read_bytes(), heard) == (content, ["a"])
    heard.clear()
    wheels.fetch([wheel], cache=tmp_path / "cache", on_fetch=lambda wheel: heard.append(wheel.name))
    assert heard == []


def test_another_file_than_the_lists_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(_requirements: Path, into: Path, *_options: str) -> None:
        (into / "a-1-py3-none-any.whl").write_bytes(b"another")

    monkeypatch.setattr(wheels, "download", pip)
    with pytest.raises(ImageError) as raised:
        wheels.fetch([Wheel("a", "1", "0" * 64)], cache=tmp_path)
    assert raised.value.code == "image.hash"
    assert list(tmp_path.iterdir()) == []


def test_pips_failure_says_what_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "wheels.txt").write_text("numpy==2.5.5\n")
    with pytest.raises(ImageError, match="pip config list") as raised:
        wheels.download(tmp_path / "wheels.txt", tmp_path, "--no-index", "--find-links", str(tmp_path))
    assert raised.value.code == "image.fetch"


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """One reader takes the first of them, another the last."""
    wheel = make(tmp_path / "a.whl", {"a.py": b"1"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("a.py", b"2")
    with pytest.raises(ImageError, match="a name twice"):
        wheels.unpack(wheel, tmp_path / "out")


def test_a_module_beside_it_is_not_run_for_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text("open('ran', 'w')")
    (tmp_path / "requirements.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    with suppress(ImageError):
        wheels.download(tmp_path / "requirements.txt", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
