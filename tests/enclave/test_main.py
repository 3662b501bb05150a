"""What the enclave's process does before it boots: which module it takes, and what it asks of a Nitro machine first."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nsm_driver import NsmDriver

from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.__main__ import security_module
from ephemeralml.enclave.clock import require_clock_source
from ephemeralml.enclave.entropy import seed_kernel
from ephemeralml.enclave.nsm import NitroSecurityModule
from ephemeralml.errors import PlatformError


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NsmDriver:
    """An NSM at the path ``nsm``, and a machine that says of itself what a Nitro enclave's kernel says."""
    for name, content in (("nsm", ""), ("rng_current", "nsm-hwrng\n"), ("current_clocksource", "kvm-clock\n")):
        (tmp_path / name).write_text(content)
    driver = NsmDriver(tmp_path / "nsm", SoftwareNsm(DevelopmentRoot.create(), {}).handle)
    monkeypatch.setattr(fcntl, "ioctl", driver.ioctl)
    assert seed_kernel.__kwdefaults__
    monkeypatch.setitem(seed_kernel.__kwdefaults__, "generator", tmp_path / "rng_current")
    monkeypatch.setattr(require_clock_source, "__defaults__", (tmp_path / "current_clocksource",))
    return driver


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes random bytes from root alone")
def test_the_device_is_the_nitro_platform_and_seeds_the_kernel_first(driver: NsmDriver, tmp_path: Path) -> None:
    module = security_module(device=tmp_path / "nsm", descriptor=None)
    assert isinstance(module, NitroSecurityModule)
    assert driver.requests == [cbor.encode("GetRandom")]


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes random bytes from root alone")
@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("rng_current", "virtio_rng.0\n", "entropy.generator"), ("current_clocksource", "acpi_pm\n", "clock.source")],
)
def test_an_unsound_machine_is_refused(tmp_path: Path, name: str, content: str, code: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PlatformError) as caught:
        security_module(device=tmp_path / "nsm", descriptor=None)
    assert caught.value.code == code


def started(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    configuration = tmp_path / "enclave.json"
    configuration.write_text('{"model_owner": "' + "00" * 32 + '"}')
    command = [sys.executable, "-m", "ephemeralml.enclave", "--configuration", str(configuration)]
    command += ["--listen", f"unix://{tmp_path}/enclave", "--host", f"unix://{tmp_path}/nobody", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_without_a_descriptor_the_device_is_asked(tmp_path: Path) -> None:
    ended = started(tmp_path, "--nsm-device", f"{tmp_path}/nsm")
    assert ended.returncode == 1
    assert ended.stderr.endswith("[nsm.device]\n")
    assert "Traceback" not in ended.stderr


def test_a_device_that_is_no_nsm_ends_it(tmp_path: Path) -> None:
    ended = started(tmp_path, "--nsm-device", "/dev/null")
    assert ended.returncode == 1
    assert ended.stderr.endswith(("[nsm.driver]\n", "[entropy.generator]\n"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being it")
def test_root_is_given_up_for_good() -> None:
    program = """
import os
from ephemeralml.enclave.__main__ import give_up_root
give_up_root()
print(os.getresuid(), os.getresgid(), os.getgroups())
os.setuid(0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout == "(65534, 65534, 65534) (65534, 65534, 65534) []\n"
    assert "PermissionError" in ended.stderr


def test_two_modules_are_one_too_many(tmp_path: Path) -> None:
    ended = started(tmp_path, "--nsm-device", "/dev/nsm", "--nsm-fd", "3")
    assert ended.returncode == 2
    assert "not allowed with" in ended.stderr
