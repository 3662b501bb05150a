"""Grants: what a principal may do with a key besides its policy, until revoked.

Source: AWS KMS API Reference, CreateGrant and ListGrants. They are in effect at once, and have no constraints, retiring
principals or tokens here. An explicit Deny in the key policy wins over a grant; attestation binds none.
"""

from __future__ import annotations

import secrets
from typing import Final

from ephemeralml.devcloud.kms import fields
from ephemeralml.devcloud.kms.api_error import VALIDATION, ApiError
from ephemeralml.devcloud.kms.store import StoredGrant
from ephemeralml.devcloud.sigv4 import PRINCIPAL_ARN

MAX_PAGE: Final = 100

_OPERATIONS: Final = frozenset(
    {"Decrypt", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo", "CreateGrant", "DescribeKey"}
)


def read_grant(body: fields.Body) -> StoredGrant:
    """The grant that a CreateGrant request describes. Raises `ApiError`."""
    if body.get("Constraints") is not None or body.get("RetiringPrincipal") is not None:
        raise ApiError("UnsupportedOperationException", "Grants have no constraints or retiring principals here.")
    grantee = fields.text(body, "GranteePrincipal", limit=256)
    if PRINCIPAL_ARN.fullmatch(grantee) is None:
        raise ApiError("InvalidArnException", "GranteePrincipal is not an IAM user or role.")
    operations = body.get("Operations")
    if (
        not isinstance(operations, list)
        or not operations
        or not all(item in _OPERATIONS for item in map(str, operations))
    ):
        raise ApiError(VALIDATION, f"Operations must list some of {', '.join(sorted(_OPERATIONS))}.")
    return StoredGrant(secrets.token_hex(32), grantee, tuple(map(str, operations)))


def page(body: fields.Body, grants: list[StoredGrant], key_arn: str) -> dict[str, object]:
    """The answer of ListGrants: at most `Limit` of the grants from `Marker` on."""
    limit = body.get("Limit", 50)
    marker = fields.text(body, "Marker", default="0", limit=8)
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise ApiError(VALIDATION, f"Limit must be 1 to {MAX_PAGE}.")
    if not (marker.isascii() and marker.isdecimal()):
        raise ApiError("InvalidMarkerException", "Marker is none of this server's.")
    start = int(marker)
    listed = [
        {"KeyId": key_arn, "GrantId": grant.grant_id, "GranteePrincipal": grant.grantee, "Operations": grant.operations}
        for grant in grants[start : start + limit]
    ]
    if start + limit >= len(grants):
        return {"Grants": listed, "Truncated": False}
    return {"Grants": listed, "Truncated": True, "NextMarker": str(start + limit)}
