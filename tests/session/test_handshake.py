"""The handshake ends in the same keys on both sides, or in a typed error with nothing made and nothing sent."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ephemeralml.attestation import Measurements, Policy, SessionBinding
from ephemeralml.attestation.binding import KeyReleaseBinding
from ephemeralml.codec import cbor
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import AttestationError, EphemeralMLError, PackageError, SessionError
from ephemeralml.package.manifest import Manifest
from ephemeralml.session import handshake as module
from ephemeralml.session import hpke
from ephemeralml.session.frames import HEADER, FrameType, decode_header, encode_frame
from ephemeralml.session.handshake import ClientHandshake, EnclaveHandshake, check_accept, now
from ephemeralml.session.hpke import HpkeKey
from ephemeralml.session.keys import SessionKeys
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES
from ephemeralml.session.records import Opener, Sealer

# The owner of conftest.py's manifest.
OWNER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)


class Enclave(Protocol):
    """The fixture of conftest.py."""

    root: DevelopmentRoot
    key: HpkeKey
    nsm: SoftwareNsm
    manifest: Manifest
    policy: Policy

    def attest(self, user_data: bytes, nonce: bytes, **changes: Any) -> bytes: ...
    def handshake(self, **changes: Any) -> EnclaveHandshake: ...


def body(frame: bytes, expected: FrameType) -> bytes:
    kind, length = decode_header(frame[: HEADER.size], limit=HANDSHAKE_FRAME_BYTES)
    assert kind is expected
    assert length == len(frame) - HEADER.size
    return frame[HEADER.size :]


def shown(client: ClientHandshake, enclave: Enclave, **changes: Any) -> bytes:
    """The EVIDENCE body that the enclave answers this client's HELLO with."""
    half = enclave.handshake(**changes)
    nonce = half.receive_hello(body(client.hello(), FrameType.HELLO))
    return body(half.evidence(nonce, attest=enclave.attest)[0], FrameType.EVIDENCE)


@pytest.fixture
def refused(enclave: Enclave, at: datetime, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EphemeralMLError]:
    """The error for an EVIDENCE body; no secret is made for it."""

    def check(evidence: bytes, client: ClientHandshake, *, policy: Policy | None = None) -> EphemeralMLError:
        def never(*_: object, **__: object) -> bytes:
            pytest.fail("a secret was sealed to evidence that was refused")

        monkeypatch.setattr(hpke, "seal", never)
        monkeypatch.setattr(module, "derive_keys", never)
        with pytest.raises(EphemeralMLError) as caught:
            client.receive_evidence(evidence, policy=policy or enclave.policy, at=at)
        return caught.value

    return check


def complete(enclave: Enclave, at: datetime) -> tuple[SessionKeys, SessionKeys, bytes]:
    client, half = ClientHandshake(), enclave.handshake()
    nonce = half.receive_hello(body(client.hello(), FrameType.HELLO))
    evidence, _ = half.evidence(nonce, attest=enclave.attest)
    _, ours, opening = client.receive_evidence(body(evidence, FrameType.EVIDENCE), policy=enclave.policy, at=at)
    theirs, accept = half.receive_open(body(opening, FrameType.OPEN))
    return ours, theirs, body(accept, FrameType.ACCEPT)


def test_both_ends_derive_the_same_keys(enclave: Enclave, at: datetime) -> None:
    ours, theirs, confirmation = complete(enclave, at)
    assert ours == theirs
    check_accept(confirmation, ours)
    record = Sealer(ours.client_to_enclave, ours.session_id).seal(FrameType.REQUEST, b"hi")[HEADER.size :]
    assert Opener(theirs.client_to_enclave, theirs.session_id).open(FrameType.REQUEST, record) == b"hi"
    with pytest.raises(SessionError):
        Opener(theirs.enclave_to_client, theirs.session_id).open(FrameType.REQUEST, record)
    again, _, _ = complete(enclave, at)
    assert again.session_id != ours.session_id


def test_what_passed_is_kept(enclave: Enclave, at: datetime) -> None:
    client, half = ClientHandshake(), enclave.handshake()
    nonce = half.receive_hello(body(client.hello(), FrameType.HELLO))
    evidence, document = half.evidence(nonce, attest=enclave.attest)
    attested, _, _ = client.receive_evidence(body(evidence, FrameType.EVIDENCE), policy=enclave.policy, at=at)
    assert attested.evidence.document == document
    assert attested.evidence.hpke_public_key == enclave.key.public_bytes
    assert attested.manifest == enclave.manifest
    assert Manifest.verify(attested.evidence.manifest, owner=enclave.manifest.owner) == enclave.manifest
    assert attested.receipt_key == attested.verdict.document.public_key
    assert [step.name for step in attested.verdict.steps] == [
        *("parse", "signature", "chain", "freshness", "measurements", "key binding", "model"),
    ]
    assert attested.verdict.ok
    assert not attested.verdict.confidential


def test_nonces_are_fresh() -> None:
    assert len({ClientHandshake().hello() for _ in range(10)}) == 10


@pytest.mark.parametrize("size", [0, 31, 32, 33])
def test_only_the_right_confirmation_is_accepted(enclave: Enclave, at: datetime, size: int) -> None:
    keys, _, _ = complete(enclave, at)
    with pytest.raises(SessionError) as caught:
        check_accept(bytes(size), keys)
    assert caught.value.code == "accept.confirmation"


def test_now_is_aware() -> None:
    assert now().utcoffset() == timedelta(0)


# What a client may send to an enclave.

HELLO: dict[str, Any] = {"version": 1, "nonce": b"n" * 32}


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (b"", "hello.malformed"),
        (b"\xff", "hello.malformed"),
        (cbor.encode([1, b"n" * 32]), "hello.malformed"),
        (cbor.encode({"version": 1}), "hello.malformed"),
        (cbor.encode({**HELLO, "more": 1}), "hello.malformed"),
        (cbor.encode({**HELLO, "nonce": b"n" * 31}), "hello.malformed"),
        (cbor.encode({**HELLO, "nonce": b"n" * 33}), "hello.malformed"),
        (cbor.encode({**HELLO, "nonce": "n" * 32}), "hello.malformed"),
        (cbor.encode({**HELLO, "nonce": None}), "hello.malformed"),
        (cbor.encode(HELLO) + b"\0", "hello.malformed"),
        (cbor.encode({**HELLO, "version": 0}), "hello.version"),
        (cbor.encode({**HELLO, "version": 2}), "hello.version"),
        (cbor.encode({**HELLO, "version": True}), "hello.version"),
        (cbor.encode({**HELLO, "version": "1"}), "hello.version"),
    ],
)
def test_malformed_hello(enclave: Enclave, hello: bytes, code: str) -> None:
    with pytest.raises(SessionError) as caught:
        enclave.handshake().receive_hello(hello)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_any_hello_is_a_session_error(enclave: Enclave, hello: bytes) -> None:
    with pytest.raises(SessionError):
        enclave.handshake().receive_hello(hello)


@settings(max_examples=30)
@given(st.binary(max_size=1300))
def test_any_open_is_a_session_error(enclave: Enclave, opening: bytes) -> None:
    half = enclave.handshake()
    half.receive_hello(cbor.encode(HELLO))
    half.evidence(b"n" * 32, attest=lambda *_: b"document")
    with pytest.raises(SessionError):
        half.receive_open(opening)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(enclave: Enclave, size: int) -> None:
    half = enclave.handshake()
    hello = cbor.encode(HELLO)
    nonce = half.receive_hello(hello)
    evidence, _ = half.evidence(nonce, attest=lambda *_: b"document")
    transcript = sha256(encode_frame(FrameType.HELLO, hello) + evidence).digest()
    sealed = hpke.seal(os.urandom(size), enclave.key.public_bytes, info=b"ephemeralml session v1 open" + transcript)
    with pytest.raises(SessionError) as caught:
        half.receive_open(sealed)
    assert caught.value.code == "open.malformed"


def test_an_open_for_another_transcript_is_refused(enclave: Enclave, at: datetime) -> None:
    first, second = enclave.handshake(), enclave.handshake()
    client, other = ClientHandshake(), ClientHandshake()
    nonce = first.receive_hello(body(client.hello(), FrameType.HELLO))
    evidence, _ = first.evidence(nonce, attest=enclave.attest)
    second.evidence(second.receive_hello(body(other.hello(), FrameType.HELLO)), attest=enclave.attest)
    _, _, opening = client.receive_evidence(body(evidence, FrameType.EVIDENCE), policy=enclave.policy, at=at)
    with pytest.raises(SessionError) as caught:
        second.receive_open(body(opening, FrameType.OPEN))
    assert caught.value.code == "open.hpke"


# What an enclave, or whoever is in between, may show to a client.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, "evidence.version"),
        ({"version": True}, "evidence.version"),
        ({"more": 1}, "evidence.malformed"),
        ({"hpke_public_key": None}, "evidence.malformed"),
        ({"attestation_document": "text"}, "evidence.malformed"),
        ({"manifest": 1}, "evidence.malformed"),
    ],
)
def test_malformed_evidence(
    enclave: Enclave, refused: Callable[..., EphemeralMLError], change: dict[str, Any], code: str
) -> None:
    client = ClientHandshake()
    value: Any = cbor.decode(shown(client, enclave))
    error = refused(cbor.encode({**value, **change}), client)
    assert isinstance(error, SessionError)
    assert error.code == code


@pytest.mark.parametrize("missing", ["version", "hpke_public_key", "attestation_document", "manifest"])
def test_evidence_is_complete(enclave: Enclave, refused: Callable[..., EphemeralMLError], missing: str) -> None:
    client = ClientHandshake()
    value: Any = cbor.decode(shown(client, enclave))
    error = refused(cbor.encode({key: item for key, item in value.items() if key != missing}), client)
    assert error.code == "evidence.malformed"


@given(st.binary(max_size=300))
def test_any_evidence_is_a_session_error(enclave: Enclave, evidence: bytes) -> None:
    with pytest.raises(SessionError):
        ClientHandshake().receive_evidence(evidence, policy=enclave.policy, at=now())


@settings(max_examples=60)
@given(position=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_every_flipped_bit_of_the_evidence_is_found(enclave: Enclave, position: int, bit: int) -> None:
    client, half = ClientHandshake(), enclave.handshake()
    nonce = half.receive_hello(body(client.hello(), FrameType.HELLO))
    evidence = bytearray(body(half.evidence(nonce, attest=enclave.attest)[0], FrameType.EVIDENCE))
    evidence[position % len(evidence)] ^= 1 << bit
    with pytest.raises((SessionError, AttestationError, PackageError)):
        client.receive_evidence(bytes(evidence), policy=enclave.policy, at=now())


def test_a_replayed_document_is_refused(enclave: Enclave, refused: Callable[..., EphemeralMLError]) -> None:
    error = refused(shown(ClientHandshake(), enclave), ClientHandshake())
    assert isinstance(error, AttestationError)
    assert (error.step, error.code) == ("freshness", "freshness.nonce")


def test_another_hpke_key_is_refused(enclave: Enclave, refused: Callable[..., EphemeralMLError]) -> None:
    client = ClientHandshake()
    value: Any = cbor.decode(shown(client, enclave))
    error = refused(cbor.encode({**value, "hpke_public_key": HpkeKey().public_bytes}), client)
    assert isinstance(error, AttestationError)
    assert (error.step, error.code) == ("key binding", "key_binding.hpke")


def test_a_swapped_manifest_is_refused(enclave: Enclave, refused: Callable[..., EphemeralMLError]) -> None:
    client = ClientHandshake()
    other = dataclasses.replace(enclave.manifest, version=9)
    error = refused(shown(client, enclave, manifest=sign(other)), client)
    assert isinstance(error, AttestationError)
    assert (error.step, error.code) == ("model", "model.digest")


def test_a_forged_manifest_is_refused(enclave: Enclave, refused: Callable[..., EphemeralMLError]) -> None:
    client = ClientHandshake()
    signed = bytearray(sign(enclave.manifest))
    signed[-1] ^= 1
    assert isinstance(refused(shown(client, enclave, manifest=bytes(signed)), client), PackageError)


def test_a_document_for_another_purpose_is_refused(enclave: Enclave, refused: Callable[..., EphemeralMLError]) -> None:
    client, half = ClientHandshake(), enclave.handshake()
    nonce = half.receive_hello(body(client.hello(), FrameType.HELLO))
    release = KeyReleaseBinding(package=b"p" * 16, model=enclave.manifest.digest).to_user_data()
    frame, _ = half.evidence(nonce, attest=lambda _, nonce: enclave.attest(release, nonce))
    assert refused(body(frame, FrameType.EVIDENCE), client).code == "key_binding.user_data"


def test_a_document_without_a_receipt_key_is_refused(
    enclave: Enclave, refused: Callable[..., EphemeralMLError]
) -> None:
    client, half = ClientHandshake(), enclave.handshake()
    nonce = half.receive_hello(body(client.hello(), FrameType.HELLO))
    frame, _ = half.evidence(nonce, attest=lambda data, nonce: enclave.attest(data, nonce, public_key=None))
    assert refused(body(frame, FrameType.EVIDENCE), client).code == "key_binding.receipt_key"


@pytest.mark.parametrize("what", ["measurements", "root", "model", "version"])
def test_a_policy_that_the_evidence_does_not_meet(
    enclave: Enclave, refused: Callable[..., EphemeralMLError], what: str
) -> None:
    policy = enclave.policy
    good = policy.measurements[0]
    wrong = Measurements(pcr0=b"\x55" * 48, pcr1=good.pcr1, pcr2=good.pcr2)
    options: dict[str, Any] = {"measurements": [good], "extra_roots": [enclave.root.der]}
    changes: dict[str, dict[str, Any]] = {
        "measurements": {"measurements": [wrong]},
        "root": {"extra_roots": []},
        "model": {"models": [b"m" * 32]},
        "version": {"minimum_model_version": enclave.manifest.version + 1},
    }
    client = ClientHandshake()
    error = refused(shown(client, enclave), client, policy=Policy(**options | changes[what]))
    assert isinstance(error, AttestationError)
    assert error.step == {"measurements": "measurements", "root": "chain"}.get(what, "model")


def test_user_data_binds_key_model_configuration_and_boot(enclave: Enclave) -> None:
    half = enclave.handshake()
    seen: list[tuple[bytes, bytes]] = []

    def attest(user_data: bytes, nonce: bytes) -> bytes:
        seen.append((user_data, nonce))
        return b"document"

    half.receive_hello(cbor.encode(HELLO))
    half.evidence(b"n" * 32, attest=attest)
    [(data, nonce)] = seen
    assert nonce == b"n" * 32
    assert SessionBinding.from_user_data(data) == SessionBinding(
        hpke=sha256(enclave.key.public_bytes).digest(),
        model=enclave.manifest.digest,
        config=b"c" * 32,
        boot=b"b" * 16,
    )


def sign(manifest: Manifest) -> bytes:
    return manifest.sign(OWNER)
