"""The spare PCRs: which model and configuration this boot runs, for whoever reads registers and no user_data (KMS)."""

from __future__ import annotations

from hashlib import sha384
from typing import Final

from ephemeralml.attestation.document import PCR_COUNT, ZERO_PCR
from ephemeralml.enclave.security_module import SecurityModule, SecurityModuleError

MANIFEST_PCR: Final = 16
CONFIGURATION_PCR: Final = 17


def seal_registers(module: SecurityModule, *, manifest: bytes, configuration: bytes) -> None:
    """Extend PCR16 with the manifest's digest and PCR17 with the configuration's, then lock every PCR there is.

    Raises `SecurityModuleError`, also when one of the two held something before.
    """
    for index, digest in ((MANIFEST_PCR, manifest), (CONFIGURATION_PCR, configuration)):
        if module.extend(index, digest) != sha384(ZERO_PCR + digest).digest():
            raise SecurityModuleError(
                f"PCR{index} was not zero before the enclave extended it: something else in the enclave wrote it",
                code="nsm.register",
            )
    module.lock(below=PCR_COUNT)
