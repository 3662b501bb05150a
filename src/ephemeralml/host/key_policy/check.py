"""Every hole in a key policy: whatever lets its key reach anything but the measured enclaves.

Judged on the open side. A Deny is credited with one thing, that grants are of no use without attestation; conditions
this page does not know are reported and trusted for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Final, TypeAlias

from ephemeralml.attestation import Measurements
from ephemeralml.attestation.document import ZERO_PCR
from ephemeralml.errors import KeyReleaseError
from ephemeralml.host.key_policy.findings import Finding, finding
from ephemeralml.host.key_policy.statements import Condition, Statement, read_statements

if TYPE_CHECKING:
    from ephemeralml.host.kms_keys import KmsKeys

_Release: TypeAlias = Mapping[int, str]

# What gives out secrets of ciphertexts that are there, and can be bound to an attested enclave.
_RELEASE: Final = ("Decrypt", "DeriveSharedSecret", "Decapsulate")
# What gives out new keys in plaintext: the owner's work, none of a host's.
_DATA_KEYS: Final = ("GenerateDataKey", "GenerateDataKeyPair")
_BYPASS: Final = {"CreateGrant": "grant", "ReplicateKey": "replica"}
_GOVERN: Final = ("PutKeyPolicy", "ScheduleKeyDeletion", "DisableKey", "ImportKeyMaterial", "DeleteImportedKeyMaterial")
_SENSITIVE: Final = (*_RELEASE, "ReEncryptFrom", *_DATA_KEYS, *_BYPASS, *_GOVERN)
_GRANTED: Final = frozenset({*_RELEASE, "ReEncryptFrom", "CreateGrant"})

_NOT_EQUAL: Final = frozenset({"StringNotEquals", "StringNotEqualsIgnoreCase"})

_IDENTITY: Final = re.compile(
    r"arn:aws[a-z-]*:(iam::(?P<account>\d{12}):(?P<kind>user|role)/(?:[^*?/]+/)*(?P<name>[^*?/]+)"
    r"|sts::(?P<of>\d{12}):assumed-role/(?P<role>[^*?/]+)/[^*?/]+)",
    re.ASCII,
)
_DELETED: Final = re.compile(r"A[A-Z0-9]{15,127}", re.ASCII)
_ZERO: Final = ZERO_PCR.hex()
_MOST_COMBINATIONS: Final = 10_000


def check_policy(
    text: str, *, measurements: Sequence[Measurements], account: str, roles: Sequence[str] = ()
) -> list[Finding]:
    """The holes and notes of one policy, in its order. Raises `PolicyError` for a policy that cannot be read.

    `measurements` are the releases that may have the key; `account` is the key's (12 digits), which no policy names;
    `roles` the hosts', taken from the policy when empty.
    """
    statements = read_statements(text)
    releases = [{index: value.hex() for index, value in item.registers.items()} for item in measurements]
    allowing = [statement for statement in statements if statement.allow]
    hosts = {identity_of(role) for role in roles} or {
        identity_of(principal)
        for statement in allowing
        if any(statement.covers(action) for action in _RELEASE)
        for principal in statement.principals
    }
    found = [
        found
        for statement in allowing
        for found in _allowed(statement, releases, hosts, account, whom_only=bool(roles))
    ]
    found += [
        finding("not_released", "policy", _short(release[0]))
        for release in releases
        if not any(statement.covers("Decrypt") and _lets_in(statement, release) for statement in allowing)
    ]
    return found


def check_key(
    keys: KmsKeys, key_arn: str, *, measurements: Sequence[Measurements], roles: Sequence[str] = ()
) -> list[Finding]:
    """`check_policy` of a live key's policy, and what else opens a key: grants, sharing, replicas, known material.

    Raises `KeyReleaseError` when the policy or the key's metadata may not be read, `PolicyError` when it is malformed.
    """
    text = keys.policy(key_arn)
    found = check_policy(text, measurements=measurements, roles=roles, account=key_arn.split(":")[4])
    if keys.shared_policy(key_arn) is not None:
        found.append(finding("shared", "key"))
    metadata = keys.describe(key_arn)
    if metadata.get("Origin") != "AWS_KMS":
        found.append(finding("external", "key", metadata.get("Origin")))
    if metadata.get("MultiRegion"):
        found.append(finding("multi_region", "key"))
    if metadata.get("KeyState") != "Enabled":
        found.append(finding("state", "key", metadata.get("KeyState")))
    denied = any(_denies_unattested(statement, measurements) for statement in read_statements(text))
    try:
        grants = keys.grants(key_arn)
    except KeyReleaseError as error:
        return found if denied else [*found, finding("grants_unread", "key", error.code)]
    for grant in grants:
        operations = sorted(_GRANTED & set(grant.operations))
        if denied:
            found.append(finding("grants_denied", "key", grant.grant_id, grant.grantee))
        elif operations:
            found.append(finding("grants", "key", grant.grant_id, _listed(operations), grant.grantee))
    return found


def _allowed(
    statement: Statement, releases: Sequence[_Release], hosts: set[str], account: str, *, whom_only: bool
) -> Iterator[Finding]:
    """What one Allow opens; `whom_only` when no principal but the hosts may decrypt."""
    covered = [action for action in _SENSITIVE if statement.covers(action)]
    if not covered:
        return
    if statement.inverted_principal:
        yield finding("not_principal", statement.name)
    if statement.inverted_action:
        yield finding("not_action", statement.name, _listed(covered))
    named = () if statement.inverted_principal else statement.principals
    single = [name for name in named if _is_single(name)]
    everybody = [name for name in named if name not in single]
    if everybody:
        yield finding("anybody", statement.name, _listed(everybody), _listed(covered))
    for name in single:
        if _DELETED.fullmatch(name):
            yield finding("deleted_principal", statement.name, name)
    here = [name for name in single if identity_of(name) in hosts]
    to_host = bool(here or everybody or statement.inverted_principal)
    attestable = [action for action in (_RELEASE + _DATA_KEYS if to_host else _RELEASE) if action in covered]
    if attestable:
        yield from _attestation(statement, attestable, releases)
    if whom_only and "Decrypt" in covered:
        for name in single:
            if name not in here:
                yield finding("other_principal", statement.name, name)
    if "ReEncryptFrom" in covered:
        yield finding("reencrypt", statement.name)
    for action, code in _BYPASS.items():
        if action in covered:
            yield finding(code, statement.name, _listed(statement.principals))
    governing = [action for action in _GOVERN if action in covered]
    if governing and here:
        yield finding("govern", statement.name, _listed(governing), _listed(here))
    if "PutKeyPolicy" in governing:
        for name in single:
            if name not in here:
                foreign = not _DELETED.fullmatch(name) and _account(identity_of(name)) != account
                yield finding("foreign_governor" if foreign else "governor", statement.name, name)
    for condition in statement.conditions:
        if condition.register is None and not condition.key.startswith("kms:encryptioncontext:"):
            yield finding("condition", statement.name, condition.operator, condition.key)


def _attestation(statement: Statement, actions: Sequence[str], releases: Sequence[_Release]) -> Iterator[Finding]:
    """What the conditions on registers leave open."""
    on_registers = [condition for condition in statement.conditions if condition.register is not None]
    loose = False
    for condition in on_registers:
        if condition.operator.endswith("IfExists"):
            yield finding("if_exists", statement.name, condition.operator, _register(condition))
            loose = True
        elif condition.wildcard:
            yield finding("wildcard", statement.name, _register(condition))
            loose = True
    bound = statement.registers
    if not bound:
        if not loose:
            yield finding("unattested", statement.name, _listed(actions))
        return
    if 0 not in bound:
        yield finding("no_image", statement.name, _listed(f"that {_named(index)}" for index in sorted(bound)))
    unknown = False
    for index, values in sorted(bound.items()):
        for value in sorted(values):
            if value == _ZERO:
                yield finding("debug", statement.name, _named(index))
                unknown = True
            elif not any(release.get(index, value) == value for release in releases):
                yield finding("unknown_release", statement.name, _named(index), _short(value))
                unknown = True
    if unknown:
        return
    if _mixes(bound, releases):
        yield finding("mixed_sets", statement.name)
    missing = {index for release in releases if _lets_in(statement, release) for index in release} - bound.keys()
    if missing and 0 in bound:
        yield finding("partial_set", statement.name, _listed(_named(index) for index in sorted(missing)))


def _mixes(bound: Mapping[int, frozenset[str]], releases: Sequence[_Release]) -> bool:
    """Whether the lists allow a combination of registers that is no release's."""
    if prod(map(len, bound.values())) > _MOST_COMBINATIONS:
        return True
    combinations = (dict(zip(bound, values, strict=True)) for values in product(*bound.values()))
    return any(
        not any(all(release.get(index, value) == value for index, value in combination.items()) for release in releases)
        for combination in combinations
    )


def _lets_in(statement: Statement, release: _Release) -> bool:
    bound = statement.registers
    return bool(bound) and all(release.get(index) in values for index, values in bound.items() if index in release)


def _denies_unattested(statement: Statement, measurements: Sequence[Measurements]) -> bool:
    """Whether it denies release to everything that is not one of these images, grants or not."""
    known = {item.pcr0.hex() for item in measurements}
    match statement.conditions:
        # Negated operators hold for an absent key, with and without IfExists.
        case (Condition(values=values) as condition,) if condition.operator.removesuffix("IfExists") in _NOT_EQUAL:
            bounds = condition.register == 0 and {value.lower() for value in values} <= known
        case _:
            bounds = False
    return (
        bounds
        and not statement.allow
        and not statement.inverted_principal
        and "*" in statement.principals
        and "*" in statement.resources
        and all(statement.covers(action) for action in ("Decrypt", "ReEncryptFrom"))
    )


def _is_single(principal: str) -> bool:
    return _IDENTITY.fullmatch(principal) is not None or _DELETED.fullmatch(principal) is not None


def identity_of(principal: str) -> str:
    """One name for a role and its sessions, whose ARNs leave out the role's path."""
    match = _IDENTITY.fullmatch(principal)
    if match is None:
        return principal
    return f"{match['account'] or match['of']}:{match['kind'] or 'role'}/{match['name'] or match['role']}"


def _account(identity: str) -> str:
    return identity.partition(":")[0]


def _named(index: int) -> str:
    return f"PCR{index}"


def _register(condition: Condition) -> str:
    return _named(condition.register or 0)


def _short(value: str) -> str:
    return f"{value[:16]}…"


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(names)
