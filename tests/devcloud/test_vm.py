"""What cannot become a machine is refused before anything starts; the rest is in tests/vm, where one boots."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ephemeralml.devcloud.qemu import Qemu
from ephemeralml.devcloud.vm import VmLauncher
from ephemeralml.errors import ConfigurationError
from ephemeralml.image.debian import CACHE_VARIABLE
from ephemeralml.session.transport import Address


def launcher(folder: Path, *, services: str, size: int, memory: int = 64) -> VmLauncher:
    eif = folder / "enclave.eif"
    eif.write_bytes(bytes(size))
    return VmLauncher(
        eif=eif,
        cpus=1,
        memory=memory,
        root=folder / "dev-root",
        folder=folder,
        services=Address.parse(services),
        on_console=lambda _: None,
    )


@pytest.mark.parametrize(
    ("services", "size", "code"),
    [
        ("vsock://3:5001", 1, "vm.services"),
        ("tcp://127.0.0.1:5001", 1, "vm.services"),
        ("unix:///tmp/host", (16 << 20) + 1, "vm.memory"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, services: str, size: int, code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(launcher(tmp_path, services=services, size=size).start())
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["enclave.eif"]


def test_without_qemu_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(ConfigurationError, match=r"scripts/setup_vm\.sh"):
        Qemu.find()
    with pytest.raises(ConfigurationError, match=r"scripts/setup_vm\.sh"):
        asyncio.run(launcher(tmp_path, services="unix:///tmp/host", size=1).start())
