"""The spare PCRs: what goes in, that nothing can follow, and that a key policy can name it."""

from __future__ import annotations

from hashlib import sha384

import pytest

from ephemeralml.attestation import AttestationDocument
from ephemeralml.codec import cbor
from ephemeralml.devcloud.kms.conditions import parse_conditions
from ephemeralml.devcloud.kms.recipient import condition_values
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.registers import seal_registers
from ephemeralml.enclave.security_module import SecurityModule, SecurityModuleError

MANIFEST, CONFIGURATION = b"m" * 32, b"c" * 32
PCR16, PCR17 = (sha384(bytes(48) + digest).digest() for digest in (MANIFEST, CONFIGURATION))


class Local(SecurityModule):
    def __init__(self) -> None:
        super().__init__()
        self._nsm = SoftwareNsm(DevelopmentRoot.create(), {0: b"\x01" * 48})
        self.requests: list[object] = []

    def _exchange(self, request: bytes) -> bytes:
        self.requests.append(cbor.decode(request))
        return self._nsm.handle(request)


def seal(module: SecurityModule) -> None:
    seal_registers(module, manifest=MANIFEST, configuration=CONFIGURATION)


def test_a_document_shows_model_and_configuration() -> None:
    module = Local()
    assert set(AttestationDocument.parse(module.attest()).pcrs) == set(range(16))
    seal(module)
    pcrs = AttestationDocument.parse(module.attest()).pcrs
    assert set(pcrs) == set(range(32))
    assert (pcrs[0], pcrs[16], pcrs[17]) == (b"\x01" * 48, PCR16, PCR17)
    assert {pcrs[index] for index in range(18, 32)} == {bytes(48)}


def test_nothing_can_be_written_after_it() -> None:
    module = Local()
    seal(module)
    for index in range(32):
        with pytest.raises(SecurityModuleError) as caught:
            module.extend(index, b"more")
        assert caught.value.code == "nsm.read_only_index"
    # Nor by a second boot in the same enclave.
    with pytest.raises(SecurityModuleError):
        seal(module)


@pytest.mark.parametrize("index", [16, 17])
def test_a_register_that_held_something_is_refused(index: int) -> None:
    # The value would still end in our digest, and nobody could say what came before it.
    module = Local()
    module.extend(index, b"earlier")
    with pytest.raises(SecurityModuleError) as caught:
        seal(module)
    assert caught.value.code == "nsm.register"
    assert f"PCR{index}" in str(caught.value)


def test_a_register_that_somebody_locked_is_refused() -> None:
    module = Local()
    module.lock(below=17)
    with pytest.raises(SecurityModuleError) as caught:
        seal(module)
    assert caught.value.code == "nsm.read_only_index"


def test_it_takes_three_requests() -> None:
    module = Local()
    seal(module)
    assert len(module.requests) == 3


def test_a_key_policy_can_name_them() -> None:
    module = Local()
    seal(module)
    values = condition_values(AttestationDocument.parse(module.attest()))

    def holds(pcr16: bytes, pcr17: bytes) -> bool:
        names = {"kms:RecipientAttestation:PCR16": pcr16.hex(), "kms:RecipientAttestation:PCR17": pcr17.hex()}
        conditions = parse_conditions({"StringEqualsIgnoreCase": names})
        assert conditions
        return all(condition.holds(values) for condition in conditions)

    assert holds(PCR16, PCR17)
    assert not holds(PCR16, PCR16)
    assert not holds(sha384(bytes(48) + b"x" * 32).digest(), PCR17)
    assert not holds(bytes(48), PCR17)
