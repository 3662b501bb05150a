"""The Condition element of a key policy: operators, condition keys and the values a request brings.

Sources: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Multivalued context keys"; KMS Developer
Guide, "Condition keys for Nitro Enclaves" and "AWS KMS condition keys". Condition key names are not case-sensitive,
values are, save under the ``IgnoreCase`` operators; KMS offers PCRs as lower-case hex.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ephemeralml.devcloud.kms.api_error import MALFORMED_POLICY, ApiError

Context: TypeAlias = Mapping[str, tuple[str, ...]]
"""What a request says about itself: condition key in lower case → its values; absent keys are absent."""

ENCRYPTION_CONTEXT: Final = "kms:encryptioncontext:"
ENCRYPTION_CONTEXT_KEYS: Final = "kms:encryptioncontextkeys"
RECIPIENT_ATTESTATION: Final = "kms:recipientattestation:"

_SINGLE_VALUED: Final = re.compile(
    rf"{ENCRYPTION_CONTEXT}.+|{RECIPIENT_ATTESTATION}(imagesha384|pcr([12]?[0-9]|3[01]))", re.DOTALL
)
_SET_OPERATORS: Final = frozenset({"ForAllValues", "ForAnyValue"})
_IF_EXISTS: Final = "IfExists"


def like(value: str, pattern: str) -> bool:
    """Whether `value` matches `pattern`, where ``*`` is any run of characters and ``?`` any single one."""
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _equals(value: str, wanted: str) -> bool:
    return value == wanted


def _equals_ignoring_case(value: str, wanted: str) -> bool:
    return value.casefold() == wanted.casefold()


# Operator → (test of one value, whether the operator is the negated form).
_OPERATORS: Final[Mapping[str, tuple[Callable[[str, str], bool], bool]]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringEqualsIgnoreCase": (_equals_ignoring_case, False),
    "StringNotEqualsIgnoreCase": (_equals_ignoring_case, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
    "Bool": (_equals_ignoring_case, False),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one condition key (lower case), with the values the policy lists."""

    set_operator: str
    operator: str
    key: str
    values: tuple[str, ...]

    def holds(self, context: Context) -> bool:
        """Whether the request satisfies this condition, by IAM's rules for absent keys and set operators."""
        offered = context.get(self.key)
        if self.operator == "Null":
            return (offered is None) == (self.values[0] == "true")
        if offered is None and self.operator.endswith(_IF_EXISTS):
            return True
        test, negated = _OPERATORS[self.operator.removesuffix(_IF_EXISTS)]

        def matches(value: str) -> bool:
            return any(test(value, wanted) for wanted in self.values) != negated

        if self.set_operator == "ForAllValues":
            return all(map(matches, offered or ()))
        if self.set_operator == "ForAnyValue":
            return any(map(matches, offered or ()))
        if offered is None:
            return negated
        return all(map(matches, offered))


def parse_conditions(block: object) -> tuple[Condition, ...] | None:
    """The conditions of a statement, all of which must hold; None when one can never be met by any request here.

    None stands for an operator or condition key this server does not know: it cannot evaluate it, so it never holds.
    Raises `ApiError` for what IAM calls malformed, and for two forms that are traps in real policies: a set operator
    on a single-valued key (``ForAllValues`` holds when the key is absent) and none on a multivalued one.
    """
    if not isinstance(block, dict):
        raise ApiError(MALFORMED_POLICY, "Condition must be an object of operators.")
    conditions: list[Condition] = []
    known = True
    for name, keys in block.items():
        set_operator, colon, operator = name.rpartition(":")
        if not isinstance(keys, dict) or not keys:
            raise ApiError(MALFORMED_POLICY, f"Condition operator {name} must hold condition keys.")
        if operator.removesuffix(_IF_EXISTS) not in _OPERATORS and operator != "Null":
            known = False
            continue
        if colon and (set_operator not in _SET_OPERATORS or operator == "Null"):
            raise ApiError(MALFORMED_POLICY, f"{name} is not a condition operator.")
        for key, listed in keys.items():
            values = _values(operator, listed)
            lowered = key.lower()
            multivalued = lowered == ENCRYPTION_CONTEXT_KEYS
            if not multivalued and _SINGLE_VALUED.fullmatch(lowered) is None:
                known = False
                continue
            if operator != "Null" and multivalued != bool(set_operator):
                needs = "ForAllValues or ForAnyValue" if multivalued else "no set operator"
                raise ApiError(MALFORMED_POLICY, f"{key} takes {needs}.")
            conditions.append(Condition(set_operator, operator, lowered, values))
    return tuple(conditions) if known else None


def _values(operator: str, listed: object) -> tuple[str, ...]:
    values = []
    for value in listed if isinstance(listed, list) else [listed]:
        text = str(value).lower() if isinstance(value, bool) else value
        if not isinstance(text, str):
            raise ApiError(MALFORMED_POLICY, "Condition values must be strings.")
        if "${" in text:
            raise ApiError(MALFORMED_POLICY, "Policy variables are not supported.")
        values.append(text)
    if not values:
        raise ApiError(MALFORMED_POLICY, "A condition key must list at least one value.")
    if operator in {"Null", "Bool", "BoolIfExists"} and (len(values) != 1 or values[0] not in {"true", "false"}):
        raise ApiError(MALFORMED_POLICY, f"{operator} takes true or false.")
    return tuple(values)
