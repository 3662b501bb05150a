"""The image's interpreter on this machine: what it compiles names no place here, and its failures are typed."""

from __future__ import annotations

import _imp
import platform
from pathlib import Path

import pytest

from ephemeralml.errors import ImageError
from ephemeralml.image import debian, inside, rules
from ephemeralml.image.enclave import Recipe
from ephemeralml.image.interpreter import Interpreter

_RECIPE = Path(__file__).parents[2] / "deploy" / "image"


@pytest.fixture(scope="session")
def interpreter(image_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    root = tmp_path_factory.mktemp("base")
    for package in debian.fetch(Recipe.load(_RECIPE).packages, cache=image_cache / "debs"):
        debian.unpack(package, root, wanted=rules.in_base)
    return Interpreter(root)


def test_code_takes_the_place_of_sources_and_names_its_place_in_the_image(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("NAMES = {'one', 'two', 'three'}\n")
    interpreter.compile(tmp_path, prefix="/app/")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.pyc"]
    code = (tmp_path / "package" / "a.pyc").read_bytes()
    # PEP 552: by the hash of its source, never compared.
    assert code[4:8] == b"\x01\0\0\0"
    assert code[8:16] == _imp.source_hash(int.from_bytes(code[:4], "little"), b"NAMES = {'one', 'two', 'three'}\n")
    assert b"/app/package/a.py" in code
    assert str(tmp_path).encode() not in code


def test_a_source_that_does_not_compile_stops_the_build(interpreter: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def")
    with pytest.raises(ImageError, match="cannot compile: SyntaxError") as raised:
        interpreter.compile(tmp_path, prefix="/app/")
    assert raised.value.code == "image.interpreter"


def test_what_it_compresses_has_no_name_and_no_time(interpreter: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "a.cpio").write_bytes(b"content" * 1000)
    interpreter.compress(tmp_path / "a.cpio", tmp_path / "a.gz")
    # RFC 1952: deflate, no flags, no time, no extra flags, Unix.
    assert (tmp_path / "a.gz").read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\x03"


def test_another_kind_of_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ImageError, match="x86_64 alone") as raised:
        Interpreter(tmp_path)
    assert raised.value.code == "image.machine"


def test_the_script_is_for_the_interpreter_alone(interpreter: Interpreter, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot paint"):
        interpreter._run("paint", str(tmp_path))
    assert Path(inside.__file__).name == "inside.py"
