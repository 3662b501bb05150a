"""A package is written whole or not at all, whether it is packed or rewrapped."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest

from ephemeralml.errors import PackageError
from ephemeralml.package.stream import CHUNK_SIZE

from .conftest import NewKey, RandomKeys, Run, refusal


@pytest.fixture(params=["packing", "rewrapping"])
def run(request: pytest.FixtureRequest) -> Run:
    made: Run = request.getfixturevalue(request.param)
    return made


@pytest.mark.parametrize("existing", ["file", "folder", "link"])
def test_out_exists(run: Run, out: Path, keys: RandomKeys, new_key: NewKey, existing: str) -> None:
    if existing == "file":
        out.write_text("mine")
    elif existing == "folder":
        out.mkdir()
    else:
        out.symlink_to("nowhere")
    with refusal(out, PackageError, "package.exists"):
        run()
    assert not keys.contexts
    assert not new_key.asked


def test_no_folder_to_write_to(run: Run, out: Path) -> None:
    with refusal(out, PackageError, "package.io"):
        run(out=out.parent / "absent" / "out")


def test_a_full_disk(run: Run, out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with refusal(out, PackageError, "package.no_space"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_SIZE + 1000, hard))
        try:
            run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "no_space"), (errno.EDQUOT, "no_space"), (errno.EIO, "io")]
)
def test_each_failing_sync(run: Run, out: Path, number: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, countdown = os.fsync, 0

    def count(descriptor: int) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", count)
    manifest = run()
    shutil.rmtree(out)
    syncs = -countdown
    assert syncs == len(manifest.artifacts) + 1 + 2 + 1  # artifacts, manifest, two folders, and the one around them
    for position in range(1, syncs + 1):
        countdown = position
        with refusal(out, PackageError, f"package.{code}"):
            run()
