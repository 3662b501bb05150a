from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import AttestationDocument, Measurements, Policy, verify_document
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import ConfigurationError

MEASURED = {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48}
ROOT = DevelopmentRoot.create()


@pytest.fixture
def nsm() -> SoftwareNsm:
    return SoftwareNsm(ROOT, MEASURED)


def ask(nsm: SoftwareNsm, request: object) -> Any:
    return cbor.decode(nsm.handle(cbor.encode(request)))


def attest(nsm: SoftwareNsm, **fields: bytes | None) -> bytes:
    document = ask(nsm, {"Attestation": fields})["Attestation"]["document"]
    assert isinstance(document, bytes)
    return document


def test_describe_nsm(nsm: SoftwareNsm) -> None:
    assert ask(nsm, "DescribeNSM") == {
        "DescribeNSM": {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": nsm.module_id,
            "max_pcrs": 32,
            "locked_pcrs": list(range(16)),
            "digest": "SHA384",
        }
    }


def test_describe_pcr(nsm: SoftwareNsm) -> None:
    assert ask(nsm, {"DescribePCR": {"index": 0}}) == {"DescribePCR": {"lock": True, "data": MEASURED[0]}}
    assert ask(nsm, {"DescribePCR": {"index": 15}}) == {"DescribePCR": {"lock": True, "data": bytes(48)}}
    assert ask(nsm, {"DescribePCR": {"index": 16}}) == {"DescribePCR": {"lock": False, "data": bytes(48)}}


def test_get_random(nsm: SoftwareNsm) -> None:
    first, second = (ask(nsm, "GetRandom")["GetRandom"]["random"] for _ in range(2))
    assert len(first) == len(second) == 256
    assert first != second


def test_extend_then_lock(nsm: SoftwareNsm) -> None:
    once = hashlib.sha384(bytes(48) + b"data").digest()
    twice = hashlib.sha384(once + b"").digest()
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"data"}}) == {"ExtendPCR": {"data": once}}
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b""}}) == {"ExtendPCR": {"data": twice}}
    assert ask(nsm, {"LockPCR": {"index": 16}}) == "LockPCR"
    assert ask(nsm, {"DescribePCR": {"index": 16}}) == {"DescribePCR": {"lock": True, "data": twice}}
    assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"data"}}) == {"Error": "ReadOnlyIndex"}
    assert AttestationDocument.parse(attest(nsm)).pcrs[16] == twice


def test_lock_pcrs(nsm: SoftwareNsm) -> None:
    assert ask(nsm, {"LockPCRs": {"range": 20}}) == "LockPCRs"
    assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == list(range(20))
    assert ask(nsm, {"LockPCRs": {"range": 32}}) == "LockPCRs"
    assert len(AttestationDocument.parse(attest(nsm)).pcrs) == 32


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"DescribePCR": {"index": 2**16}}, "InvalidArgument"),
        ({"DescribePCR": {"index": -1}}, "InvalidArgument"),
        ({"DescribePCR": {"index": True}}, "InvalidArgument"),
        ({"DescribePCR": {}}, "InvalidArgument"),
        ({"DescribePCR": {"index": 0, "more": 0}}, "InvalidArgument"),
        ({"DescribePCR": 0}, "InvalidArgument"),
        ({"ExtendPCR": {"index": 0, "data": b""}}, "ReadOnlyIndex"),
        ({"ExtendPCR": {"index": 16, "data": "text"}}, "InvalidArgument"),
        ({"ExtendPCR": {"index": 16, "data": bytes(1025)}}, "InputTooLarge"),
        ({"LockPCR": {"index": 0}}, "ReadOnlyIndex"),
        ({"LockPCR": {"index": 99}}, "InvalidIndex"),
        ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
        ({"Attestation": {"nonce": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"user_data": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"public_key": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"nonce": "text"}}, "InvalidArgument"),
        ({"Attestation": None}, "InvalidArgument"),
        ({"Reset": {}}, "InvalidOperation"),
        ({"GetRandom": {}, "DescribeNSM": {}}, "InvalidOperation"),
        ("Attestation", "InvalidOperation"),
        ([], "InvalidOperation"),
        (b"x" * 5000, "InputTooLarge"),
    ],
)
def test_refusals_carry_awss_codes(nsm: SoftwareNsm, request_: object, code: str) -> None:
    assert ask(nsm, request_) == {"Error": code}


def test_what_is_no_cbor_is_an_invalid_argument(nsm: SoftwareNsm) -> None:
    assert cbor.decode(nsm.handle(b"")) == {"Error": "InvalidArgument"}


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(request_: bytes) -> None:
    assert cbor.decode(SoftwareNsm(ROOT, {}).handle(request_)) is not None


def test_a_document_has_the_shape_of_awss(nsm: SoftwareNsm) -> None:
    document = AttestationDocument.parse(attest(nsm))
    payload = document.message.payload
    assert (payload[:1], payload[-1:]) == (b"\xbf", b"\xff")
    assert payload[1:].startswith(cbor.encode("module_id"))
    assert cbor.encode("nonce") + b"\xf6\xff" == payload[-8:]
    fields: Any = cbor.decode_foreign(payload)
    assert fields.keys() == {
        *("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce")
    }
    assert list(document.pcrs) == list(range(16))
    assert {index: document.pcrs[index] for index in range(4)} == {**MEASURED, 3: bytes(48)}
    assert document.module_id == nsm.module_id
    assert len(document.cabundle) == 4


def test_documents_carry_what_was_asked(nsm: SoftwareNsm) -> None:
    document = AttestationDocument.parse(attest(nsm, public_key=b"k" * 1024, user_data=b"", nonce=b"n" * 1024))
    assert (document.public_key, document.user_data, document.nonce) == (b"k" * 1024, b"", b"n" * 1024)


def test_documents_verify_and_the_leaf_is_renewed_before_it_ends() -> None:
    clock = [datetime.now(UTC)]
    nsm = SoftwareNsm(ROOT, MEASURED, clock=lambda: clock[0])
    pinned = Measurements(pcr0=MEASURED[0], pcr1=MEASURED[1], pcr2=MEASURED[2])
    policy = Policy(measurements=[pinned], extra_roots=[ROOT.der])
    leaves = []
    for hours in (0, 2, 3, 72):
        clock[0] += timedelta(hours=hours)
        verdict = verify_document(attest(nsm), policy=policy, at=clock[0])
        leaves.append(verdict.document.certificate)
    assert leaves[0] == leaves[1]
    assert len(set(leaves)) == 3


@pytest.mark.parametrize("measurements", [{16: bytes(48)}, {-1: bytes(48)}, {0: bytes(32)}])
def test_measurements_are_checked(measurements: dict[int, bytes]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SoftwareNsm(ROOT, measurements)
    assert caught.value.code == "nsm.measurements"
