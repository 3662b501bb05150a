"""The NSM device at the ioctl boundary: a driver as the kernel's, real documents behind it, and all that can fail."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from nsm_driver import NsmDriver

from ephemeralml.attestation import AttestationDocument, Measurements, Policy, verify_document
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.nsm import NitroSecurityModule
from ephemeralml.enclave.security_module import RESPONSE_BYTES, SecurityModuleError

from .conftest import threads_get_their_own

PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
ROOT = DevelopmentRoot.create()
ERRORS = {
    "InvalidArgument": "nsm.invalid_argument",
    "InvalidIndex": "nsm.invalid_index",
    "InvalidResponse": "nsm.invalid_response",
    "ReadOnlyIndex": "nsm.read_only_index",
    "InvalidOperation": "nsm.invalid_operation",
    "BufferTooSmall": "nsm.buffer_too_small",
    "InputTooLarge": "nsm.input_too_large",
    "InternalError": "nsm.internal_error",
    # Not errors of the API: whatever they mean, nothing was done.
    "Success": "nsm.failed",
    "SomethingNew": "nsm.failed",
}
CALLS: list[Callable[[NitroSecurityModule], Any]] = [
    lambda module: module.attest(),
    lambda module: module.pcr(0),
    lambda module: module.random(),
    lambda module: module.extend(16, b"data"),
    lambda module: module.lock(below=32),
]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "nsm"
    path.touch()
    return path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, device: Path) -> Callable[..., NsmDriver]:
    def put(handle: Callable[[bytes], bytes]) -> NsmDriver:
        driver = NsmDriver(device, handle)
        monkeypatch.setattr(fcntl, "ioctl", driver.ioctl)
        return driver

    return put


@pytest.fixture
def driver(install: Callable[..., NsmDriver]) -> NsmDriver:
    return install(SoftwareNsm(ROOT, PCRS).handle)


@pytest.fixture
def module(device: Path) -> Iterator[NitroSecurityModule]:
    with device.open("rb") as opened:
        yield NitroSecurityModule(opened.fileno())


def refused(call: Callable[[NitroSecurityModule], Any], module: NitroSecurityModule) -> SecurityModuleError:
    with pytest.raises(SecurityModuleError) as caught:
        call(module)
    return caught.value


def test_a_real_document_comes_out(driver: NsmDriver, module: NitroSecurityModule) -> None:
    raw = module.attest(user_data=b"u" * 1024, nonce=b"n" * 1024, public_key=b"k" * 1024)
    policy = Policy(measurements=[Measurements(pcr0=PCRS[0], pcr1=PCRS[1], pcr2=PCRS[2])], extra_roots=[ROOT.der])
    document = verify_document(raw, policy=policy, at=datetime.now(UTC)).document
    assert (document.user_data, document.nonce, document.public_key) == (b"u" * 1024, b"n" * 1024, b"k" * 1024)
    assert len(driver.requests) == 1


def test_requests_are_the_ones_of_awss_api(driver: NsmDriver, module: NitroSecurityModule) -> None:
    for call in CALLS:
        call(module)
    assert [cbor.decode(request) for request in driver.requests] == [
        {"Attestation": {"user_data": None, "nonce": None, "public_key": None}},
        {"DescribePCR": {"index": 0}},
        "GetRandom",
        {"ExtendPCR": {"index": 16, "data": b"data"}},
        {"LockPCRs": {"range": 32}},
    ]


def test_registers_and_random_bytes(driver: NsmDriver, module: NitroSecurityModule) -> None:
    assert module.pcr(2) == PCRS[2]
    assert module.extend(16, b"data") == hashlib.sha384(bytes(48) + b"data").digest() == module.pcr(16)
    module.lock(below=32)
    assert refused(lambda module: module.extend(31, b"more"), module).code == "nsm.read_only_index"
    assert set(AttestationDocument.parse(module.attest()).pcrs) == set(range(32))
    assert len(module.random()) == 256
    assert module.random() != module.random()
    assert driver.errors == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ERRORS)
def test_every_error_of_the_module_is_typed(
    install: Callable[..., NsmDriver], module: NitroSecurityModule, name: str, call: Callable[..., Any]
) -> None:
    install(lambda _: cbor.encode({"Error": name}))
    error = refused(call, module)
    assert error.code == ERRORS[name]
    assert (name in str(error)) == (error.code != "nsm.failed")


@pytest.mark.parametrize("number", ["EMSGSIZE", "ENOTTY", "EINVAL", "EIO", "EFAULT", "ETIMEDOUT", "ENODATA", "EBADF"])
def test_every_error_of_the_kernel_is_typed(driver: NsmDriver, module: NitroSecurityModule, number: str) -> None:
    for call in CALLS:
        driver.errors = [getattr(errno, number)]
        error = refused(call, module)
        assert error.code == "nsm.driver"
        assert number in str(error)
        assert os.strerror(getattr(errno, number)) in str(error)
    assert driver.requests == []
    assert module.random()


def test_an_interrupted_call_is_made_again(driver: NsmDriver, module: NitroSecurityModule) -> None:
    driver.errors = [errno.EINTR] * 3
    assert len(module.random()) == 256
    assert len(driver.requests) == 1


def test_a_call_that_is_always_interrupted_ends(driver: NsmDriver, module: NitroSecurityModule) -> None:
    driver.errors = [errno.EINTR] * 100
    error = refused(lambda module: module.random(), module)
    assert error.code == "nsm.driver"
    assert driver.requests == []


@pytest.mark.parametrize("length", [RESPONSE_BYTES + 1, 2**32, 2**64 - 1])
def test_a_length_beyond_the_buffer_is_not_believed(
    driver: NsmDriver, module: NitroSecurityModule, length: int
) -> None:
    driver.claim = lambda _: length
    for call in CALLS:
        assert refused(call, module).code == "nsm.driver"


@pytest.mark.parametrize("shorter", [1, 10, 200])
def test_an_answer_cut_short_is_refused(driver: NsmDriver, module: NitroSecurityModule, shorter: int) -> None:
    driver.claim = lambda length: max(length - shorter, 0)
    for call in CALLS:
        assert refused(call, module).code == "nsm.failed"


def test_a_length_within_the_buffer_but_beyond_the_answer_is_refused(
    driver: NsmDriver, module: NitroSecurityModule
) -> None:
    driver.claim = lambda length: length + 1
    for call in CALLS:
        assert refused(call, module).code == "nsm.failed"


def test_an_answer_larger_than_the_buffer_is_cut_by_the_kernel_and_refused(
    install: Callable[..., NsmDriver], module: NitroSecurityModule
) -> None:
    head = len(cbor.encode({"GetRandom": {"random": bytes(10_000)}})) - 10_000
    sizes = iter((RESPONSE_BYTES - head, RESPONSE_BYTES - head + 1))
    install(lambda _: cbor.encode({"GetRandom": {"random": b"r" * next(sizes)}}))
    assert module.random() == b"r" * (RESPONSE_BYTES - head)
    assert refused(lambda module: module.random(), module).code == "nsm.failed"


def test_a_request_that_the_driver_would_not_take_is_not_sent(driver: NsmDriver, module: NitroSecurityModule) -> None:
    assert refused(lambda module: module.attest(user_data=bytes(0x1000)), module).code == "nsm.failed"
    assert driver.requests == []
    assert refused(lambda module: module.attest(user_data=bytes(1025)), module).code == "nsm.input_too_large"


def test_threads_get_their_own_answers(driver: NsmDriver, module: NitroSecurityModule) -> None:
    threads_get_their_own(module)
    assert len(driver.requests) == 24


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecurityModuleError) as caught:
        NitroSecurityModule.open(tmp_path / "nsm")
    assert caught.value.code == "nsm.device"


def test_a_device_that_is_another_one() -> None:
    # The real kernel's answer.
    with Path("/dev/null").open("rb") as device:
        error = refused(lambda module: module.random(), NitroSecurityModule(device.fileno()))
    assert error.code == "nsm.driver"
    assert "ENOTTY" in str(error)
