"""QEMU gets into the cache whole or not at all, and is run with nothing of the system's."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from debs import make_deb

from ephemeralml.devcloud.qemu import PACKAGES, Qemu
from ephemeralml.errors import ConfigurationError, ImageError
from ephemeralml.image.debian import CACHE_VARIABLE, MIRROR_VARIABLE, DebianPackage

LIBRARIES = "usr/lib/x86_64-linux-gnu"
FILES = {
    "usr/bin/qemu-system-x86_64": b"a program",
    "usr/bin/something-else": b"a program that is not needed",
    f"{LIBRARIES}/ld-linux-x86-64.so.2": b'#!/bin/sh\necho "$@"\n',
    f"{LIBRARIES}/libglib.so": b"a library",
    "usr/share/qemu/qboot.rom": b"firmware",
    "etc/qemu-ifup": b"a script",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of one package, which is in the cache: no mirror is asked."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(MIRROR_VARIABLE, "http://127.0.0.1:9")
    package = make_deb(tmp_path / "cache" / "debs", "qemu", FILES)
    path = tmp_path / "qemu.debs"
    path.write_text(f"{package.sha256} {package.size} {package.path}\n")
    return path


def test_the_list_names_qemu_and_the_firmware_it_starts_with() -> None:
    assert {"qemu-system-x86", "qemu-system-data", "seabios", "libc6"} <= {
        package.name for package in DebianPackage.read_list(PACKAGES)
    }


def test_what_is_needed_is_unpacked_and_run_through_its_own_loader(packages: Path) -> None:
    qemu = Qemu.install(packages)

    unpacked = {str(path.relative_to(qemu.folder)) for path in qemu.folder.rglob("*") if path.is_file()}
    assert unpacked == set(FILES) - {"usr/bin/something-else", "etc/qemu-ifup"}
    said = subprocess.run(qemu.command("-version"), check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"--library-path {qemu.folder / LIBRARIES} {qemu.folder}/usr/bin/qemu-system-x86_64 -L ")
    assert Qemu.find(packages) == qemu


def test_a_second_run_does_nothing_and_two_at_once_do_it_once(packages: Path) -> None:
    said: list[str] = []
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(Qemu.install, packages, on_progress=said.append) for _ in range(4)]
    assert len({run.result().folder for run in runs}) == 1
    Qemu.install(packages, on_progress=said.append)
    assert said == ["unpacking"]


def test_without_an_install_it_is_said_what_to_run(packages: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"scripts/setup_vm\.sh") as caught:
        Qemu.find(packages)
    assert caught.value.code == "vm.qemu"


def test_another_list_is_another_place(packages: Path) -> None:
    first = Qemu.install(packages)
    packages.write_text("# another day\n" + packages.read_text())
    assert Qemu.install(packages) != first


def test_nothing_is_left_of_an_install_that_failed(packages: Path, tmp_path: Path) -> None:
    deb = next((tmp_path / "cache" / "debs").glob("*.deb"))
    deb.write_bytes(deb.read_bytes()[:-1])
    with pytest.raises(ImageError):
        Qemu.install(packages)
    with pytest.raises(ConfigurationError):
        Qemu.find(packages)
