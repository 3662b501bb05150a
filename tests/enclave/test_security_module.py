"""The socket security module against the software NSM, and against one that answers anything."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from ephemeralml.attestation import AttestationDocument
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.security_module import (
    RESPONSE_BYTES,
    SecurityModule,
    SecurityModuleError,
    SocketSecurityModule,
)

from .conftest import threads_get_their_own

PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}


@pytest.fixture(scope="module")
def nsm() -> SoftwareNsm:
    return SoftwareNsm(DevelopmentRoot.create(), PCRS)


@pytest.fixture
def behind() -> Iterator[Callable[..., SecurityModule]]:
    """A module whose requests `answer` answers, framed unless told `raw`."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def make(answer: Callable[[bytes], bytes], *, raw: bool = False) -> SecurityModule:
        ours, theirs = socket.socketpair()
        sockets.extend((ours, theirs))

        def serve() -> None:
            with suppress(OSError), theirs.makefile("rwb") as stream:
                while len(header := stream.read(4)) == 4:
                    data = answer(stream.read(struct.unpack(">I", header)[0]))
                    stream.write(data if raw else struct.pack(">I", len(data)) + data)
                    stream.flush()
                    if raw:
                        theirs.shutdown(socket.SHUT_RDWR)
                        return

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return SocketSecurityModule(ours)

    yield make
    for one in sockets[::2]:
        one.close()
    for thread in threads:
        thread.join()
    for one in sockets[1::2]:
        one.close()


def test_the_software_nsm(behind: Callable[..., SecurityModule], nsm: SoftwareNsm) -> None:
    module = behind(nsm.handle)
    document = AttestationDocument.parse(module.attest(user_data=b"u", nonce=b"n", public_key=b"k"))
    assert (document.user_data, document.nonce, document.public_key) == (b"u", b"n", b"k")
    assert module.pcr(1) == PCRS[1]
    assert module.pcr(9) == bytes(48)
    assert len(module.random()) == 256
    assert module.random() != module.random()


def test_extend_and_lock(behind: Callable[..., SecurityModule], nsm: SoftwareNsm) -> None:
    module = behind(nsm.handle)
    expected = hashlib.sha384(bytes(48) + b"data").digest()
    assert module.extend(16, b"data") == expected == module.pcr(16)
    module.lock(below=17)
    with pytest.raises(SecurityModuleError):
        module.extend(16, b"more")
    with pytest.raises(SecurityModuleError):
        module.extend(0, b"locked from the start")
    assert module.pcr(16) == expected


def test_threads_get_their_own_answers(behind: Callable[..., SecurityModule], nsm: SoftwareNsm) -> None:
    module = behind(nsm.handle)
    threads_get_their_own(module)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        cbor.encode({"Error": 5}),
        cbor.encode("LockPCR"),
        cbor.encode("Attestation"),
        cbor.encode("GetRandom"),
        cbor.encode({}),
        cbor.encode([]),
        cbor.encode({"Attestation": None, "DescribePCR": None, "GetRandom": None, "ExtendPCR": None}),
        cbor.encode({"Attestation": {}, "DescribePCR": {}, "GetRandom": {}, "ExtendPCR": {}}),
        cbor.encode({"Attestation": {"document": ""}, "DescribePCR": {"data": 1}, "GetRandom": {"random": b""}}),
        cbor.encode({"DescribePCR": {"data": bytes(47)}}),
        bytes(RESPONSE_BYTES + 1),
    ],
)
def test_answers_that_make_no_sense(behind: Callable[..., SecurityModule], answer: bytes) -> None:
    calls: list[Callable[[SecurityModule], Any]] = [
        lambda module: module.attest(),
        lambda module: module.pcr(0),
        lambda module: module.random(),
        lambda module: module.extend(16, b""),
        lambda module: module.lock(below=32),
    ]
    for call in calls:
        with pytest.raises(SecurityModuleError) as caught:
            call(behind(lambda _: answer))
        assert caught.value.code == "nsm.failed"


def test_a_refusal_is_named(behind: Callable[..., SecurityModule]) -> None:
    with pytest.raises(SecurityModuleError) as caught:
        behind(lambda _: cbor.encode({"Error": "InternalError"})).random()
    assert caught.value.code == "nsm.internal_error"


@pytest.mark.parametrize("raw", [b"", b"\0\0", struct.pack(">I", 2**32 - 1), struct.pack(">I", 10) + b"short"])
def test_a_link_that_breaks(behind: Callable[..., SecurityModule], raw: bytes) -> None:
    with pytest.raises(SecurityModuleError):
        behind(lambda _: raw, raw=True).random()


def test_a_request_that_the_device_would_not_take(behind: Callable[..., SecurityModule], nsm: SoftwareNsm) -> None:
    module = behind(nsm.handle)
    with pytest.raises(SecurityModuleError):
        module.attest(user_data=bytes(5000))
    with pytest.raises(SecurityModuleError):
        module.attest(user_data=bytes(1025))
    assert module.random()
