"""The key policy of a model's KMS key: who governs it, who wraps with it, and which enclaves it is released to.

Sources: KMS Developer Guide, "Condition keys for Nitro Enclaves" and "Key policies"; IAM User Guide, "IAM JSON policy
elements: Condition operators".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ephemeralml.attestation import Measurements
from ephemeralml.errors import ConfigurationError
from ephemeralml.host.key_policy.statements import MAX_POLICY_BYTES

_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(user|role)/[\w+=,.@/-]{1,576}", re.ASCII)
_ATTESTATION: Final = "kms:RecipientAttestation:"
# No CreateGrant (a grant is bound to no enclave), no ReplicateKey (a replica has a policy of its own).
_GOVERN: Final = (
    "kms:DescribeKey",
    "kms:GetKeyPolicy",
    "kms:PutKeyPolicy",
    "kms:ListGrants",
    "kms:RevokeGrant",
    "kms:EnableKey",
    "kms:DisableKey",
    "kms:ScheduleKeyDeletion",
    "kms:CancelKeyDeletion",
)


def key_policy(
    *,
    measurements: Sequence[Measurements],
    roles: Sequence[str],
    admin: str,
    owner: str,
    encryption_context: Mapping[str, str] | None = None,
) -> str:
    """The policy as JSON: `roles` (the hosts') release to an enclave that is one whole set of `measurements`.

    `admin` alone may change the policy or delete the key, `owner` makes data keys (`pack`). `encryption_context` pairs
    are asked of both. Raises `ConfigurationError` for a principal that is no IAM user or role, for a role that would
    govern or wrap as well, and for a policy larger than KMS takes (32 KiB).
    """
    releases = list(dict.fromkeys(measurements))
    hosts = list(dict.fromkeys(roles))
    if not releases or not hosts:
        raise _refused("measurements", "a key policy needs the measurements of one release and the role of one host")
    for principal in (*hosts, admin, owner):
        if _PRINCIPAL.fullmatch(principal) is None:
            raise _refused(
                "principal", f"{principal!r} is no ARN of an IAM user or role (arn:aws:iam::<account>:role/<name>)"
            )
    if {admin, owner} & set(hosts):
        raise _refused(
            "separation", "a host's role must not govern the key nor wrap with it: whoever runs the host could read all"
        )
    if any(not name or "${" in name + value for name, value in (encryption_context or {}).items()):
        raise _refused(
            "context", "an encryption context's name is not empty, and ${ is no part of it: IAM would fill it in"
        )
    context = {f"kms:EncryptionContext:{name}": value for name, value in sorted((encryption_context or {}).items())}
    bound: dict[str, Any] = {"StringEquals": context} if context else {}
    statements = [
        _allow("GovernKey", [admin], _GOVERN, {}),
        _allow("MakeDataKeys", [owner], ("kms:GenerateDataKey",), bound),
        # A refused host can say which measurement differs; nothing in a policy is secret.
        _allow("ExplainRefusals", hosts, ("kms:DescribeKey", "kms:GetKeyPolicy"), {}),
        # One statement a release: lists in one statement would let the registers of two releases mix.
        *(
            _allow(f"Release{number}", hosts, ("kms:Decrypt",), {**bound, "StringEqualsIgnoreCase": _registers(item)})
            for number, item in enumerate(releases, 1)
        ),
        # Grants and later statements cannot widen this. A negated operator also holds when there is no attestation.
        {
            "Sid": "DenyUnattestedRelease",
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
            "Resource": "*",
            "Condition": {
                "StringNotEqualsIgnoreCase": {
                    f"{_ATTESTATION}ImageSha384": list(dict.fromkeys(item.pcr0.hex() for item in releases))
                }
            },
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)
    if len(policy.encode()) > MAX_POLICY_BYTES:
        raise _refused("size", f"{len(releases)} releases make a policy larger than KMS takes; leave old ones out")
    return policy


def _registers(release: Measurements) -> dict[str, str]:
    """Every register of the set by its condition key; PCR0 goes by the name ImageSha384."""
    return {
        f"{_ATTESTATION}{f'PCR{index}' if index else 'ImageSha384'}": value.hex()
        for index, value in release.registers.items()
    }


def _allow(sid: str, principals: Sequence[str], actions: Sequence[str], condition: Mapping[str, Any]) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": list(principals)},
        "Action": list(actions),
        # In a key policy: the key it is attached to.
        "Resource": "*",
    }
    return {**statement, "Condition": dict(condition)} if condition else statement


def _refused(code: str, message: str) -> ConfigurationError:
    return ConfigurationError(message, code=f"key_policy.{code}")
