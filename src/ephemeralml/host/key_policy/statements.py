"""Any key policy, read statement by statement: whom it speaks of, what it allows, which registers it asks for.

Nothing here decides for a request as IAM does. What is read errs on the open side: a condition that is not understood
binds nothing, a principal that is not one user or role is everybody. Source: IAM User Guide, "Grammar of the IAM JSON
policy language".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from ephemeralml import strict_json
from ephemeralml.errors import PolicyError

MAX_POLICY_BYTES: Final = 32 * 1024

_ATTESTATION: Final = "kms:recipientattestation:"
_REGISTER: Final = re.compile(rf"{_ATTESTATION}(imagesha384|pcr([12]?\d|3[01]))", re.ASCII)
_EXACT_OPERATORS: Final = frozenset({"StringEquals", "StringEqualsIgnoreCase"})
_ELEMENTS: Final = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)


@dataclass(frozen=True, slots=True)
class Condition:
    """An operator with its prefix and suffix as written, a condition key in lower case, the values listed."""

    operator: str
    key: str
    values: tuple[str, ...]

    @property
    def register(self) -> int | None:
        """The PCR that the condition key names, if it names one."""
        match = _REGISTER.fullmatch(self.key)
        return None if match is None else int(match[2] or 0)

    @property
    def wildcard(self) -> bool:
        """Whether a value is a pattern under this operator."""
        return self.operator.startswith("StringLike") and any(set(value) & {"*", "?"} for value in self.values)

    @property
    def exact(self) -> bool:
        """Whether a request meets it only with one of the values: no set operator, no IfExists, no wildcard."""
        return self.operator in _EXACT_OPERATORS or (self.operator == "StringLike" and not self.wildcard)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `name` is how messages call it. `inverted_*` mark NotPrincipal and NotAction."""

    name: str
    allow: bool
    principals: tuple[str, ...]
    inverted_principal: bool
    actions: tuple[str, ...]
    inverted_action: bool
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def covers(self, action: str) -> bool:
        """Whether it speaks about an action, given without ``kms:``; names are not case-sensitive."""
        wanted = f"kms:{action}".lower()
        return any(matches(wanted, listed.lower()) for listed in self.actions) != self.inverted_action

    @property
    def registers(self) -> Mapping[int, frozenset[str]]:
        """PCR index to the values one of which it must have, in lower-case hex; only what binds without exception."""
        bound: dict[int, frozenset[str]] = {}
        for condition in self.conditions:
            if (index := condition.register) is not None and condition.exact:
                values = frozenset(value.lower() for value in condition.values)
                before = bound.get(index, values)
                # All conditions of a statement must hold; where they exclude each other, none may go unseen.
                bound[index] = (before & values) or (before | values)
        return bound


def matches(text: str, pattern: str) -> bool:
    """Whether `text` matches a pattern of IAM's: ``*`` is any run of characters, ``?`` any single one."""
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def read_statements(text: str) -> tuple[Statement, ...]:
    """The statements of a key policy. Raises `PolicyError` key_policy.malformed for what KMS would not have taken."""
    if len(text.encode(errors="surrogatepass")) > MAX_POLICY_BYTES:
        raise _malformed(f"it is larger than {MAX_POLICY_BYTES} bytes")
    try:
        document = strict_json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON, or names a member twice") from None
    if not isinstance(document, dict) or not document.keys() <= {"Version", "Id", "Statement"}:
        raise _malformed("it must be an object of Version, Id and Statement")
    listed = document.get("Statement")
    items = listed if isinstance(listed, list) else [listed]
    if not items:
        raise _malformed("it has no statement")
    return tuple(_statement(number, item) for number, item in enumerate(items, 1))


def _statement(number: int, item: object) -> Statement:
    name = f"statement {number}"
    if not isinstance(item, dict) or not item.keys() <= _ELEMENTS:
        raise _malformed(f"{name} is no object of a statement's elements")
    sid = item.get("Sid")
    if isinstance(sid, str) and sid:
        name = f"{name} ({sid[:64]})"
    if item.get("Effect") not in ("Allow", "Deny"):
        raise _malformed(f"{name} has no Effect of Allow or Deny")
    inverted_principal, principal = _one_of(name, item, "Principal", "NotPrincipal")
    inverted_action, action = _one_of(name, item, "Action", "NotAction")
    return Statement(
        name=name,
        allow=item["Effect"] == "Allow",
        principals=_principals(name, principal),
        inverted_principal=inverted_principal,
        actions=_texts(name, action),
        inverted_action=inverted_action,
        resources=_texts(name, item["Resource"]) if "Resource" in item else (),
        conditions=_conditions(name, item.get("Condition", {})),
    )


def _one_of(name: str, item: dict[str, Any], plain: str, inverted: str) -> tuple[bool, object]:
    if (plain in item) == (inverted in item):
        raise _malformed(f"{name} needs {plain} or {inverted}, and not both")
    return inverted in item, item[inverted if inverted in item else plain]


def _principals(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, dict) or not value:
        raise _malformed(f'{name} has a principal that is neither "*" nor an object')
    return tuple(
        listed if kind == "AWS" else f"{kind}: {listed}"
        for kind, of_kind in value.items()
        for listed in _texts(name, of_kind)
    )


def _conditions(name: str, block: object) -> tuple[Condition, ...]:
    if not isinstance(block, dict) or not all(isinstance(keys, dict) and keys for keys in block.values()):
        raise _malformed(f"{name} has a condition that is no object of operators and condition keys")
    return tuple(
        Condition(operator, key.lower(), _values(name, listed))
        for operator, keys in block.items()
        for key, listed in keys.items()
    )


def _values(name: str, listed: object) -> tuple[str, ...]:
    values = listed if isinstance(listed, list) else [listed]
    if not values or not all(isinstance(value, (str, bool, int, float)) for value in values):
        raise _malformed(f"{name} has a condition without values, or with values that are not text")
    return tuple(str(value) for value in values)


def _texts(name: str, listed: object) -> tuple[str, ...]:
    values = listed if isinstance(listed, list) else [listed]
    if not values or not all(isinstance(value, str) and value for value in values):
        raise _malformed(f"{name} has an element that is neither a string nor a list of strings")
    return tuple(values)


def _malformed(why: str) -> PolicyError:
    return PolicyError(f"the key policy cannot be read: {why}", code="key_policy.malformed")
