"""The KMS keys themselves: make one, read its policy, its metadata and its grants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ephemeralml.errors import KeyReleaseError
from ephemeralml.host.kms_calls import KmsCalls
from ephemeralml.session.kms_errors import bad_answer

_GRANTS_A_PAGE: Final = 100
_GRANT_PAGES: Final = 20


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may do what with a key besides its policy; operations by their names in the API."""

    grant_id: str
    grantee: str
    operations: tuple[str, ...]


class KmsKeys:
    """The keys of one region. Every failure is a `KeyReleaseError` whose code starts with ``kms.``."""

    def __init__(self, *, region: str, endpoint_url: str | None = None) -> None:
        """`endpoint_url` None is AWS's own. Raises `ConfigurationError` for a region or address that cannot work."""
        self._kms = KmsCalls(region=region, endpoint_url=endpoint_url)

    def create(self, policy: str, *, description: str) -> str:
        """A new symmetric key with that policy; returns its ARN. The policy must let the caller change it again."""
        answer = self._kms.call("create_key", Policy=policy, Description=description)
        return _text(_object(answer, "KeyMetadata"), "Arn")

    def policy(self, key_arn: str) -> str:
        """The key policy, as JSON."""
        return _text(self._kms.call("get_key_policy", KeyId=key_arn, PolicyName="default"), "Policy")

    def shared_policy(self, key_arn: str) -> str | None:
        """The second policy, which AWS RAM manages for a key that is shared; None where there is none."""
        try:
            return _text(self._kms.call("get_key_policy", KeyId=key_arn, PolicyName="AWS_RAM"), "Policy")
        except KeyReleaseError as error:
            if error.code == "kms.not_found":
                return None
            raise

    def describe(self, key_arn: str) -> Mapping[str, Any]:
        """The key's metadata: ``KeyState``, ``Origin``, ``MultiRegion`` and more."""
        return _object(self._kms.call("describe_key", KeyId=key_arn), "KeyMetadata")

    def grants(self, key_arn: str) -> list[Grant]:
        """All grants of the key; more than 2,000 are an error with the code kms.grants."""
        found: list[Grant] = []
        page: dict[str, object] = {}
        for _ in range(_GRANT_PAGES):
            answer = self._kms.call("list_grants", KeyId=key_arn, Limit=_GRANTS_A_PAGE, **page)
            for item in answer.get("Grants", ()):
                operations = tuple(map(str, item.get("Operations", ())))
                found.append(Grant(_text(item, "GrantId"), str(item.get("GranteePrincipal")), operations))
            if not answer.get("Truncated"):
                return found
            page = {"Marker": _text(answer, "NextMarker")}
        raise KeyReleaseError(
            "the key has more grants than are read here; revoke what is not needed", code="kms.grants"
        )


def _object(answer: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    value = answer.get(member)
    if not isinstance(value, dict):
        raise bad_answer(f"{member} is missing")
    return value


def _text(answer: Mapping[str, Any], member: str) -> str:
    value = answer.get(member)
    if not isinstance(value, str) or not value:
        raise bad_answer(f"{member} is missing")
    return value
