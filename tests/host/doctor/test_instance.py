"""Checks of a Nitro instance, on files and programs laid out as its kernel, allocator and nitro-cli lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from eif import PLAIN, RAMDISK, forge
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.host.doctor import instance
from ephemeralml.host.doctor.finding import State
from ephemeralml.image import measure_eif

MIB = 1 << 20


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_image_takes_four_times_its_size(tmp_path: Path) -> None:
    eif = tmp_path / "enclave.eif"
    eif.write_bytes(forge([*PLAIN, (RAMDISK, bytes(MIB))]))
    found, measurements = instance.image(eif, 5, measure=measure_eif)
    assert found.state is State.OK
    assert measurements is not None
    assert measurements.pcr0.hex() == measure_eif(eif)["PCR0"]
    found, _ = instance.image(eif, 4, measure=measure_eif)
    assert found.state is State.FAILED
    assert "--memory 5" in found.fix


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"PK\3\4" * 1000)
    (tmp_path / "cut.eif").write_bytes(forge()[:-1])
    (tmp_path / "changed.eif").write_bytes(forge()[:-1] + b"x")
    for name in ("none.eif", "zip", "cut.eif", "changed.eif", "."):
        found, measurements = instance.image(tmp_path / name, 1024, measure=measure_eif)
        assert (found.state, measurements) == (State.FAILED, None)
        assert found.fix


@pytest.mark.parametrize(
    "text",
    [
        "---\nmemory_mib: 1024\ncpu_count: 2\n",
        "---\n# memory_mib: 1\nmemory_mib: 1024 # MiB\ncpu_count:   2\n",
        '---\nmemory_mib: "1024"\ncpu_pool: 1,3\n',
        "---\nmemory_mib: 4096\ncpu_pool: 1-3\n",
        "- memory_mib: 512\n  cpu_count: 1\n- memory_mib: 512\n  cpu_pool: 3\n",
    ],
)
def test_an_allocator_that_sets_enough_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "allocator.yaml"
    path.write_text(text)
    assert instance.allocator_settings(2, 1024, path=path).state is State.OK


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\nmemory_mib: 512\ncpu_count: 2\n",
        "---\nmemory_mib: 1024\ncpu_count: 1\n",
        "---\n#memory_mib: 1024\ncpu_count: 2\n",
        "---\nmemory_mib: 1024\ncpu_pool: 1,,3\n",
        "---\nmemory_mib: 10-24\ncpu_count: 2\n",
    ],
)
def test_an_allocator_that_does_not(tmp_path: Path, text: str) -> None:
    path = tmp_path / "allocator.yaml"
    path.write_text(text)
    found = instance.allocator_settings(2, 1024, path=path)
    assert found.state is State.FAILED
    assert "memory_mib: 1024 and cpu_count: 2" in found.fix
    assert instance.allocator_settings(2, 1024, path=tmp_path / "none").state is State.FAILED


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(["memory_mib", "cpu_pool", ":", "-", "9", ",", "\n", " ", '"'])).map(
        lambda parts: "".join(parts).encode()
    )
)
def test_any_bytes_are_settings_or_a_failure(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    assert instance.allocator_settings(1, 1, path=path).state in {State.OK, State.FAILED}


def test_the_allocators_unit() -> None:
    assert instance.allocator_service(("true",)).state is State.OK
    assert instance.allocator_service(("sh", "-c", "echo inactive; exit 3")).state is State.FAILED
    assert "is inactive" in instance.allocator_service(("sh", "-c", "echo inactive; exit 3")).reason
    assert instance.allocator_service(("no-such-program-anywhere",)).state is State.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("present", "pool", "state"),
    [
        ("0-3", "1,3", State.OK),
        ("0-7", "2-3,6-7", State.OK),
        ("0-3", "1", State.FAILED),
        ("0-3", "", State.FAILED),
        ("0-3", None, State.FAILED),
        ("0-1", "1", State.FAILED),
        ("0-3", "(null)", State.FAILED),
        ("many", "1,3", State.UNKNOWN),
    ],
)
def test_the_pool_of_cpus(tmp_path: Path, present: str, pool: str | None, state: State) -> None:
    (tmp_path / "present").write_text(present + "\n")
    if pool is not None:
        (tmp_path / "ne_cpus").write_text(pool + "\n")
    found = instance.cpu_pool(2, pool=tmp_path / "ne_cpus", present=tmp_path / "present")
    assert found.state is state


@pytest.mark.parametrize(
    ("pages", "state", "fix"),
    [
        ({"2048kB": (512, 512)}, State.OK, ""),
        ({"1048576kB": (1, 1), "2048kB": (0, 0)}, State.OK, ""),
        ({"1048576kB": (0, 0), "2048kB": (511, 511)}, State.FAILED, "memory_mib: 1024"),
        ({"1048576kB": (1, 0), "2048kB": (256, 256)}, State.FAILED, "describe-enclaves"),
        ({}, State.FAILED, "memory_mib: 1024"),
    ],
)
def test_huge_pages(tmp_path: Path, pages: dict[str, tuple[int, int]], state: State, fix: str) -> None:
    for size, (total, free) in pages.items():
        folder = tmp_path / f"hugepages-{size}"
        folder.mkdir()
        (folder / "nr_hugepages").write_text(f"{total}\n")
        (folder / "free_hugepages").write_text(f"{free}\n")
    found = instance.huge_pages(1024, folder=tmp_path)
    assert found.state is state
    assert fix in found.fix


def test_huge_pages_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "hugepages-2048kB").mkdir()
    assert instance.huge_pages(1024, folder=tmp_path).state is State.UNKNOWN


def test_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert instance.device(Path("/dev/null"), "make it").state is State.OK
    found = instance.device(tmp_path / "none", "make it")
    assert (found.state, found.fix) == (State.FAILED, "make it")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    # Root, as whom tests may run, is refused nothing.
    monkeypatch.setattr(os, "open", refuse)
    found = instance.device(Path("/dev/null"), "make it")
    assert found.state is State.FAILED
    assert "usermod -aG ne" in found.fix


def test_the_security_module_is_inside_enclaves_only(tmp_path: Path) -> None:
    assert instance.security_module(tmp_path / "none").state is State.NOT_APPLICABLE
    assert instance.security_module(Path("/dev/null")).state is State.FAILED


def test_nitro_cli(tmp_path: Path) -> None:
    found = instance.nitro_cli(program(tmp_path / "good", "echo Nitro CLI 1.4.2"))
    assert (found.state, found.reason) == (State.OK, "Nitro CLI 1.4.2")
    assert instance.nitro_cli(program(tmp_path / "bad", "echo no driver >&2; exit 1")).state is State.FAILED
    assert instance.nitro_cli(str(tmp_path / "none")).state is State.FAILED


@given(st.sets(st.integers(0, 99_999), min_size=1, max_size=20))
def test_a_list_of_cpus_is_what_the_kernel_writes(cpus: set[int]) -> None:
    assert instance.cpu_list(",".join(str(cpu) for cpu in sorted(cpus))) == cpus


def test_ranges_of_cpus() -> None:
    assert instance.cpu_list("0-2,7") == {0, 1, 2, 7}
    for text in ("", "a", "1-", "-1", "1,", "1 2", "1-2-3", "123456"):
        with pytest.raises(ValueError, match="list of CPUs"):
            instance.cpu_list(text)


@pytest.mark.parametrize(
    ("says", "state"),
    [
        ("Nitro CLI 1.2.0", State.OK),
        ("Nitro CLI 1.10.0", State.OK),
        ("Nitro CLI 2.0.0", State.OK),
        ("Nitro CLI 1.1.9", State.FAILED),
        ("Nitro CLI 0.12.0", State.FAILED),
        ("Nitro CLI", State.FAILED),
        ("", State.FAILED),
    ],
)
def test_a_nitro_cli_older_than_the_oldest_is_not_ready(tmp_path: Path, says: str, state: State) -> None:
    program = tmp_path / "nitro-cli"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    found = instance.nitro_cli(str(program))
    assert found.state is state
    assert bool(found.fix) == (state is State.FAILED)
