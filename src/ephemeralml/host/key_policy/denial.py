"""Why KMS denied a release, as far as the host can tell: the enclave's registers beside those the key policy asks for.

A guess for the operator. The document's signature is not verified here, and nothing is decided by what is said.
"""

from __future__ import annotations

from typing import Final

from ephemeralml.attestation import AttestationDocument
from ephemeralml.attestation.document import PCR_BYTES, PCR_COUNT
from ephemeralml.errors import AttestationError, PolicyError
from ephemeralml.host.key_policy.statements import Statement, read_statements
from ephemeralml.texts import printable

_WHOLE: Final = 2 * PCR_BYTES
_SHORT: Final = 16
_LISTED: Final = 4


def likely_cause(document: bytes, policy: str | None) -> str | None:
    """A sentence of fewer than 350 characters, or None when the document cannot be read.

    `policy` is the key policy, or None where it could not be read.
    """
    try:
        parsed = AttestationDocument.parse(document)
    except AttestationError:
        return None
    if parsed.debug:
        return (
            "the enclave runs in debug mode (its PCR0 is all zero), and KMS releases no key to such; start it without"
        )
    pcrs = {index: value.hex() for index, value in parsed.pcrs.items()}
    unread = f"this role cannot read the key policy to compare; the enclave has PCR0 {pcrs.get(0, 'nowhere')}"
    if policy is None:
        return unread
    try:
        releasing = [item for item in read_statements(policy) if item.allow and item.covers("Decrypt")]
    except PolicyError:
        return unread
    attested = [item for item in releasing if item.registers]
    if not attested:
        return f"the key policy releases to no measured enclave at all; this one has PCR0 {pcrs.get(0, 'nowhere')}"
    differences = [_first_difference(item, pcrs) for item in attested]
    # The statements that fit longest are those meant for this image.
    index = max(differences)
    if index == PCR_COUNT:
        return (
            "the enclave's measurements are in the key policy; so it is this role or the encryption context that the "
            "policy does not allow, or a Deny"
        )
    wanted = {
        value for item, at in zip(attested, differences, strict=True) if at == index for value in item.registers[index]
    }
    return (
        f"PCR{index} does not match the key policy: policy has {_listed(sorted(wanted))}, enclave has "
        f"{pcrs.get(index, 'none')}; allow this release (ephemeralml kms policy) or run one that is"
    )


def _first_difference(statement: Statement, pcrs: dict[int, str]) -> int:
    """The lowest register in which the enclave is not what the statement asks for, PCR_COUNT when it is all of it."""
    differing = [index for index, values in statement.registers.items() if pcrs.get(index) not in values]
    return min(differing, default=PCR_COUNT)


def _listed(values: list[str]) -> str:
    if len(values) <= 1:
        return printable(values[0], _WHOLE) if values else "no value at all"
    more = len(values) - _LISTED
    return " or ".join(f"{printable(value, _SHORT)}…" for value in values[:_LISTED]) + (
        f" ({more} more)" if more > 0 else ""
    )
