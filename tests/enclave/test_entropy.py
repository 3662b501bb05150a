"""Random numbers at boot: the kernel draws on the NSM, takes what we mix in, and has some, or nothing starts."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.codec import cbor
from ephemeralml.enclave.entropy import seed_kernel
from ephemeralml.enclave.security_module import SecurityModule, SecurityModuleError
from ephemeralml.errors import PlatformError

RANDOM = bytes(range(256))


class Module(SecurityModule):
    answer = cbor.encode({"GetRandom": {"random": RANDOM}})

    def _exchange(self, request: bytes) -> bytes:
        assert request == cbor.encode("GetRandom")
        return self.answer


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, Path]:
    paths = {"generator": tmp_path / "rng_current", "pool": tmp_path / "random"}
    paths["generator"].write_text("nsm-hwrng\n")
    paths["pool"].touch()
    return paths


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, machine: dict[str, Path]) -> list[tuple[int, bytes]]:
    """What the kernel took: bits credited, and the bytes; each time it had to make a new key of them at once."""
    taken: list[tuple[int, bytes]] = []
    keyed = 0

    def ioctl(file: Any, command: int, argument: bytearray | None = None) -> int:
        nonlocal keyed
        assert Path(file.name) == machine["pool"]
        if argument is None:
            assert (command, keyed) == (0x5207, len(taken) - 1)
            keyed += 1
            return 0
        assert (command, keyed) == (0x40085203, len(taken))
        bits, size = struct.unpack_from("=ii", argument)
        assert len(argument) == 8 + size
        taken.append((bits, bytes(argument[8:])))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return taken


def refused(machine: dict[str, Path], module: SecurityModule | None = None) -> PlatformError:
    with pytest.raises(PlatformError) as caught:
        seed_kernel(module or Module(), **machine)
    return caught.value


def test_the_modules_bytes_are_mixed_in_at_the_drivers_own_credit(
    machine: dict[str, Path], added: list[tuple[int, bytes]]
) -> None:
    seed_kernel(Module(), **machine)
    # 1000 of 1024 bits, as drivers/misc/nsm.c says of itself.
    assert added == [(2000, RANDOM)]


@pytest.mark.parametrize("name", ["virtio_rng.0\n", "none\n", "", "nsm-hwrng2\n", "tpm-rng-0\n"])
def test_another_generator_is_refused_before_anything_is_mixed_in(
    machine: dict[str, Path], added: list[tuple[int, bytes]], name: str
) -> None:
    machine["generator"].write_text(name)
    assert refused(machine).code == "entropy.generator"
    assert added == []


def test_a_kernel_without_generators_is_refused(machine: dict[str, Path], added: list[tuple[int, bytes]]) -> None:
    machine["generator"].unlink()
    assert refused(machine).code == "entropy.generator"
    assert added == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTTY, errno.EINVAL, errno.EFAULT])
def test_a_pool_that_takes_nothing_is_refused(
    machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def ioctl(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    error = refused(machine)
    assert error.code == "entropy.pool"
    assert os.strerror(number) in str(error)


def test_a_pool_that_is_not_there_is_not_made(machine: dict[str, Path]) -> None:
    machine["pool"].unlink()
    assert refused(machine).code == "entropy.pool"
    assert not machine["pool"].exists()


@pytest.mark.usefixtures("added")
def test_a_kernel_that_still_has_none_is_refused(machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def getrandom(_: int, flags: int) -> bytes:
        assert flags == os.GRND_NONBLOCK
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "getrandom", getrandom)
    assert refused(machine).code == "entropy.pool"


def test_a_module_that_gives_none_is_refused(machine: dict[str, Path], added: list[tuple[int, bytes]]) -> None:
    module = Module()
    module.answer = cbor.encode({"Error": "InternalError"})
    with pytest.raises(SecurityModuleError):
        seed_kernel(module, **machine)
    assert added == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes random bytes from root alone")
def test_the_real_kernel_takes_them(machine: dict[str, Path]) -> None:
    seed_kernel(Module(), generator=machine["generator"])


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes random bytes from root alone")
def test_the_real_kernel_refuses_a_file(machine: dict[str, Path]) -> None:
    assert refused(machine).code == "entropy.pool"


def test_names_are_not_taken_for_more_than_they_are(machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Callable[..., int]] = []
    monkeypatch.setattr(fcntl, "ioctl", calls.append)
    machine["generator"].write_bytes(b"\xff" * 100_000)
    assert len(str(refused(machine))) < 1000
    assert calls == []
