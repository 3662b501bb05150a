"""Damaged documents: the typed error and nothing else, and never an acceptance of other signed bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation import AttestationDocument, Policy, verify_document
from ephemeralml.codec import cbor, cose
from ephemeralml.errors import AttestationError

Forge = Callable[..., bytes]


def _mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to three bit flips, byte changes, inserts, deletes, repeats, truncations or splices with `other`."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(result) + 1)
        span = rng.choice((1, 1, 2, 4, 16, 256))
        match rng.randrange(7):
            case 0 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at : at + span] = rng.randbytes(len(result[at : at + span]))
            case 2:
                result[at:at] = rng.randbytes(span)
            case 3:
                del result[at : at + span]
            case 4:
                result[at:at] = result[at : at + span]
            case 5 if rng.randrange(8) == 0:
                del result[at:]
            case _:
                start = rng.randrange(len(other) + 1)
                result[at : at + span] = other[start : start + span]
    return bytes(result)


def _verify(raw: bytes, policy: Policy, at: datetime) -> AttestationDocument | None:
    try:
        return verify_document(raw, policy=policy, at=at).document
    except AttestationError:
        return None


def _attack_genuine(documents: list[AttestationDocument], policy: Policy, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    signed = {(document.message.protected, document.message.payload) for document in documents}
    for _ in range(rounds):
        document, other = rng.choice(documents), rng.choice(documents)
        raw = _mutate(document.raw, other.raw, rng)
        accepted = _verify(raw, policy, document.timestamp)
        if accepted is not None:
            assert (accepted.message.protected, accepted.message.payload) in signed


def _attack_payload(forge: Forge, fields: Mapping[str, Any], policy: Policy, *, at: datetime, rounds: int) -> set[str]:
    """Damage the payload, or one certificate in it, and sign the damage with the leaf's key: this gets far in."""
    rng = random.Random(rounds)
    payload, other = cbor.encode(dict(fields)), b"".join(fields["cabundle"])
    reached = set()
    for _ in range(rounds):
        target = rng.randrange(len(fields["cabundle"]) + 2)
        if target == 0:
            raw = forge(_payload=_mutate(payload, other, rng))
        elif target == 1:
            raw = forge(certificate=_mutate(fields["certificate"], other, rng)[:1024])
        else:
            bundle = list(fields["cabundle"])
            bundle[target - 2] = _mutate(bundle[target - 2], other, rng)[:1024]
            raw = forge(cabundle=bundle)
        try:
            verify_document(raw, policy=policy, at=at)
        except AttestationError as error:
            reached.add(error.code)
    return reached


@pytest.fixture(scope="module")
def genuine(vectors: Path) -> list[AttestationDocument]:
    return [AttestationDocument.parse(path.read_bytes()) for path in sorted((vectors / "nitro-docs").glob("*.bin"))]


def test_damaged_genuine_documents(genuine: list[AttestationDocument]) -> None:
    _attack_genuine(genuine, Policy.insecure_any_measurement(), rounds=1_500, seed=1)


def test_damaged_development_documents(forge: Forge, policy: Policy, now: datetime) -> None:
    documents = [AttestationDocument.parse(forge(nonce=bytes([index]) * 32)) for index in range(4)]
    assert all(_verify(document.raw, policy, now) for document in documents)
    _attack_genuine(documents, policy, rounds=500, seed=2)


def test_damage_signed_again(forge: Forge, fields: Mapping[str, Any], policy: Policy, now: datetime) -> None:
    reached = _attack_payload(forge, fields, policy, at=now, rounds=1_500)
    assert {"signature.certificate", "chain.untrusted_root", "chain.certificate", "chain.leaf_extensions"} <= reached
    assert "chain.invalid" in reached


def test_a_malleated_signature_is_another_document_of_the_same_payload(
    forge: Forge, policy: Policy, now: datetime
) -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    document = AttestationDocument.parse(forge())
    message = document.message
    s = (order - int.from_bytes(message.signature[48:])).to_bytes(48)
    raw = cbor.encode([message.protected, {}, message.payload, message.signature[:48] + s])
    twin = _verify(raw, policy, now)
    assert twin is not None
    assert twin.sha256 != document.sha256
    assert cose.parse(raw, tagged=False, limit=1 << 15).payload == message.payload


@pytest.mark.slow
def test_100_000_damaged_genuine_documents(genuine: list[AttestationDocument]) -> None:
    _attack_genuine(genuine, Policy.insecure_any_measurement(), rounds=100_000, seed=3)


@pytest.mark.slow
def test_50_000_times_damage_signed_again(
    forge: Forge, fields: Mapping[str, Any], policy: Policy, now: datetime
) -> None:
    _attack_payload(forge, fields, policy, at=now, rounds=50_000)
