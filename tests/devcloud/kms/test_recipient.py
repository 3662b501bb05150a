"""What an attestation document tells a key policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ephemeralml.attestation import AttestationDocument
from ephemeralml.devcloud.kms.recipient import condition_values

PCR0 = b"\x01" * 48


@pytest.fixture
def document(attest: Callable[..., bytes]) -> AttestationDocument:
    return AttestationDocument.parse(attest({0: PCR0}))


def test_registers_in_lower_case_hex(document: AttestationDocument) -> None:
    values = condition_values(document)
    assert len(values) == 17
    assert values["kms:recipientattestation:imagesha384"] == ("01" * 48,)
    assert values["kms:recipientattestation:pcr0"] == ("01" * 48,)
    assert values["kms:recipientattestation:pcr15"] == ("00" * 48,)


def test_debug_and_nitrotpm_have_none(document: AttestationDocument) -> None:
    assert condition_values(replace(document, pcrs={**document.pcrs, 0: bytes(48)})) == {}
    assert condition_values(replace(document, nitrotpm=True)) == {}


def test_without_pcr0_there_is_no_image_digest(document: AttestationDocument) -> None:
    assert set(condition_values(replace(document, pcrs={1: PCR0}))) == {"kms:recipientattestation:pcr1"}
