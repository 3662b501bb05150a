"""A root of its own: what a program in it can see and reach, and what one is told who may have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from debs import make_deb, programs

from ephemeralml.errors import ImageError
from ephemeralml.image.sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    sandbox = Sandbox(tmp_path / "root", log=tmp_path / "log")
    make_deb(tmp_path, "programs", programs("sh", "cat", "env", "ls"))
    sandbox.fill(tmp_path.glob("*.deb"))
    return sandbox


def test_a_program_sees_its_own_root_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    (sandbox.root / "mine").write_text("here")

    sandbox.run("sh", "-c", "ls / && cat /mine")

    assert (tmp_path / "log").read_text().split() == [
        "bin",
        "dev",
        "lib",
        "lib64",
        "mine",
        "sbin",
        "tmp",
        "usr",
        "here",
    ]


def test_a_program_gets_nothing_of_the_callers_environment(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-march=native")

    sandbox.run("env")

    said = (tmp_path / "log").read_text()
    assert "PATH=" in said
    assert "CFLAGS" not in said


def test_dev_null_is_the_device(sandbox: Sandbox) -> None:
    sandbox.run("sh", "-c", 'echo lost > /dev/null && test -c /dev/null && test -z "$(cat /dev/null)"')

    assert (sandbox.root / "dev/null").read_bytes() == b""


def test_a_program_that_fails_is_an_error_with_its_last_words(sandbox: Sandbox) -> None:
    with pytest.raises(ImageError, match="no such thing") as caught:
        sandbox.run("sh", "-c", "echo no such thing >&2; exit 3")

    assert caught.value.code == "image.build"


_RUN = """
import os, sys
from pathlib import Path
from ephemeralml.errors import ImageError
from ephemeralml.image.sandbox import Sandbox
place = Path(sys.argv[1])
sandbox = Sandbox(place / "root", log=place / "log")
sandbox.fill([Path(sys.argv[2])])
try:
    sandbox.run("sh", "-c", "echo $(cat /mine || echo ran)")
except ImageError as error:
    print(os.geteuid(), error.code, error)
else:
    print(os.geteuid(), "ran")
"""


def _run_as(tmp_path: Path, *wrapper: str) -> str:
    make_deb(tmp_path, "programs", programs("sh", "cat"))
    (deb,) = tmp_path.glob("*.deb")
    command = [*wrapper, sys.executable, "-c", _RUN, str(tmp_path), str(deb)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_user_who_is_not_root_has_one_too(tmp_path: Path) -> None:
    assert _run_as(tmp_path, "unshare", "--user", "--map-user=4711", "--map-group=4711").split() == ["4711", "ran"]


def test_who_may_have_no_namespaces_is_told_so_and_what_to_do(tmp_path: Path) -> None:
    none = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'

    said = _run_as(tmp_path, "unshare", "--user", "--map-root-user", "sh", "-c", none, "sh")

    assert "image.sandbox" in said
    assert "build as root, or allow user namespaces" in said
