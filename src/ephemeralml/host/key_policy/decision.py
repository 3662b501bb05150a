"""What a key policy says to one release: this caller, this image. Where it takes more than the policy to say, nothing.

Source: IAM User Guide, "Policy evaluation logic": a Deny that applies decides, then any Allow does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ephemeralml.attestation import Measurements
from ephemeralml.host.key_policy.check import identity_of
from ephemeralml.host.key_policy.statements import Condition, Statement, matches, read_statements

_ACCOUNT: Final = re.compile(r"(?:arn:aws[a-z-]*:iam::)?(\d{12})(?::root)?", re.ASCII)
_CONTEXT: Final = "kms:encryptioncontext:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A `kms:Decrypt` by `caller` (an ARN) for an enclave of these `measurements`; `context` is the package's."""

    caller: str
    measurements: Measurements
    context: Mapping[str, str]

    def value(self, key: str) -> str | None:
        """What the request has under a condition key; None when that is not known here."""
        if key.startswith(_CONTEXT):
            names = {name.lower(): value for name, value in self.context.items()}
            return names.get(key.removeprefix(_CONTEXT))
        register = Condition("", key, ()).register
        known = None if register is None else self.measurements.registers.get(register)
        return None if known is None else known.hex()


def decide(text: str, release: Release) -> bool | None:
    """True when the policy allows it, False when it does not, None when that cannot be told from here: conditions on
    other things, or an account whose IAM policies decide. Raises `PolicyError` for a policy that cannot be read.
    """
    statements = [
        (statement.allow, _applies(statement, release))
        for statement in read_statements(text)
        if statement.covers("Decrypt")
    ]
    denied = _any(applies for allow, applies in statements if not allow)
    allowed = _any(applies for allow, applies in statements if allow)
    if denied or allowed is False:
        return False
    return True if allowed and denied is False else None


def _applies(statement: Statement, release: Release) -> bool | None:
    named = _any(_is(principal, release.caller, allow=statement.allow) for principal in statement.principals)
    if statement.inverted_principal and named is not None:
        named = not named
    return _all((named, *(_holds(condition, release) for condition in statement.conditions)))


def _is(principal: str, caller: str, *, allow: bool) -> bool | None:
    if principal == "*" or identity_of(principal) == identity_of(caller):
        return True
    if (account := _ACCOUNT.fullmatch(principal)) is None:
        return False if identity_of(principal) != principal or ": " in principal else None
    if account[1] != caller.split(":")[4]:
        return False
    # A Deny to an account is one to all of its users; an Allow leaves it to the account whom.
    return None if allow else True


def _holds(condition: Condition, release: Release) -> bool | None:
    value = release.value(condition.key)
    operator = condition.operator.removesuffix("IfExists")
    negated = operator.startswith("StringNot")
    match operator.replace("Not", "", 1) if negated else operator:
        case "StringEquals":
            found = value in condition.values
        case "StringEqualsIgnoreCase":
            found = value is not None and value.lower() in {listed.lower() for listed in condition.values}
        case "StringLike":
            found = value is not None and any(matches(value, listed) for listed in condition.values)
        case _:
            return None
    return None if value is None else found != negated


def _any(values: Iterable[bool | None]) -> bool | None:
    listed = list(values)
    return True if True in listed else None if None in listed else False


def _all(values: Iterable[bool | None]) -> bool | None:
    listed = list(values)
    return False if False in listed else None if None in listed else True
