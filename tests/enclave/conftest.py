"""What both ways to a security module keep to."""

from __future__ import annotations

from threads import in_threads

from ephemeralml.attestation import AttestationDocument
from ephemeralml.enclave.security_module import SecurityModule


def threads_get_their_own(module: SecurityModule) -> None:
    """Eight threads, three documents each."""

    def work(number: int) -> None:
        nonce = bytes((number,)) * 32
        assert {AttestationDocument.parse(module.attest(nonce=nonce)).nonce for _ in range(3)} == {nonce}

    assert in_threads(8, work) == []
