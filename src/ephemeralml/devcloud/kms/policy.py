"""Key policies: strict reading of the JSON, and the decision for one request (default deny, an explicit Deny wins).

Sources: IAM User Guide, "Policy evaluation logic"; KMS Developer Guide, "Key policies in AWS KMS".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ephemeralml import strict_json
from ephemeralml.devcloud.kms.api_error import MALFORMED_POLICY, ApiError
from ephemeralml.devcloud.kms.conditions import Condition, Context, like, parse_conditions
from ephemeralml.devcloud.sigv4 import PRINCIPAL_ARN

MAX_POLICY_BYTES: Final = 32 * 1024

_VERSIONS: Final = frozenset({"2012-10-17", "2008-10-17"})
_REQUIRED: Final = frozenset({"Effect", "Principal", "Action", "Resource"})
_ELEMENTS: Final = _REQUIRED | {"Sid", "Condition"}
_ACCOUNT: Final = re.compile(r"\d{12}", re.ASCII)
_ACCOUNT_ROOT: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:root", re.ASCII)


class Effect(StrEnum):
    """What a statement, or the whole policy, says."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; it applies to a request when all of its elements match."""

    effect: Effect
    principals: tuple[str, ...]
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def applies(self, *, principal: str, action: str, resource: str, context: Context) -> bool:
        """Whether this statement speaks about the request. Action names are not case-sensitive."""
        return (
            any(_is_principal(listed, principal) for listed in self.principals)
            and any(like(action.lower(), listed.lower()) for listed in self.actions)
            and any(like(resource, listed) for listed in self.resources)
            and all(condition.holds(context) for condition in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """A parsed key policy, without the Allow statements that no request can satisfy."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, text: str) -> KeyPolicy:
        """Read a policy document. Raises `ApiError` MalformedPolicyDocumentException for anything not understood."""
        if len(text.encode(errors="surrogatepass")) > MAX_POLICY_BYTES:
            raise ApiError("LimitExceededException", f"A key policy has at most {MAX_POLICY_BYTES} bytes.")
        try:
            document = strict_json.loads(text)
        except (ValueError, RecursionError):
            raise ApiError(MALFORMED_POLICY, "The policy is not well-formed JSON.") from None
        if not isinstance(document, dict) or not document.keys() <= {"Version", "Id", "Statement"}:
            raise ApiError(MALFORMED_POLICY, "The policy must be an object of Version, Id and Statement.")
        if document.get("Version", "2008-10-17") not in _VERSIONS:
            raise ApiError(MALFORMED_POLICY, "The policy's Version must be 2012-10-17 or 2008-10-17.")
        listed = document.get("Statement")
        parsed = [_statement(item) for item in (listed if isinstance(listed, list) else [listed])]
        if not parsed:
            raise ApiError(MALFORMED_POLICY, "The policy has no statement.")
        return cls(tuple(statement for statement in parsed if statement is not None))

    def decide(self, *, principal: str, action: str, resource: str, context: Context) -> Effect | None:
        """The effect of the whole policy; None is the implicit deny of a request nothing speaks about."""
        effects = {
            statement.effect
            for statement in self.statements
            if statement.applies(principal=principal, action=action, resource=resource, context=context)
        }
        return Effect.DENY if Effect.DENY in effects else Effect.ALLOW if effects else None


def account_root(account_id: str) -> str:
    """The principal that stands for everybody in the account."""
    return f"arn:aws:iam::{account_id}:root"


def default_policy(account_id: str) -> str:
    """What KMS attaches when CreateKey names no policy: the account may do everything, whatever the conditions."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": account_root(account_id)},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]})


def _is_principal(listed: str, principal: str) -> bool:
    if _ACCOUNT_ROOT.fullmatch(listed):
        # The account delegates to IAM, which in this stand-in lets every principal of the account through.
        return principal.split(":")[4] == listed.split(":")[4]
    return listed in {"*", principal}


def _statement(item: object) -> Statement | None:
    """The statement, or None for an Allow that can never apply."""
    if not isinstance(item, dict) or not _REQUIRED <= item.keys() <= _ELEMENTS:
        raise ApiError(
            MALFORMED_POLICY,
            "A statement has Effect, Principal, Action and Resource, and may have Sid and Condition; "
            "NotPrincipal, NotAction and NotResource are not supported.",
        )
    if item["Effect"] not in list(Effect):
        raise ApiError(MALFORMED_POLICY, "Effect must be Allow or Deny.")
    effect = Effect(item["Effect"])
    conditions = parse_conditions(item.get("Condition", {}))
    if conditions is None and effect is Effect.DENY:
        raise ApiError(
            MALFORMED_POLICY, "A Deny statement has a condition this server cannot evaluate; it would never deny."
        )
    principals = _principals(item["Principal"])
    actions = _texts("Action", item["Action"])
    if not all(action == "*" or action.lower().startswith("kms:") for action in actions):
        raise ApiError(MALFORMED_POLICY, "Action must name actions of kms.")
    resources = _texts("Resource", item["Resource"])
    return None if conditions is None else Statement(effect, principals, actions, resources, conditions)


def _texts(element: str, listed: object) -> tuple[str, ...]:
    values = tuple(listed) if isinstance(listed, list) else (listed,)
    if not values or not all(isinstance(value, str) and value for value in values):
        raise ApiError(MALFORMED_POLICY, f"{element} must be a string or a list of strings.")
    return values


def _principals(value: object) -> tuple[str, ...]:
    if value == "*":
        return ("*",)
    # Services and federated users never sign requests to this server: only IAM principals are read.
    if not isinstance(value, dict) or value.keys() != {"AWS"}:
        raise ApiError(MALFORMED_POLICY, 'Principal must be "*" or {"AWS": …}.')
    principals = []
    for listed in _texts("Principal", value["AWS"]):
        principal = account_root(listed) if _ACCOUNT.fullmatch(listed) else listed
        if principal != "*" and not (_ACCOUNT_ROOT.fullmatch(principal) or PRINCIPAL_ARN.fullmatch(principal)):
            raise ApiError(MALFORMED_POLICY, "Policy contains a statement with an invalid principal.")
        principals.append(principal)
    return tuple(principals)
