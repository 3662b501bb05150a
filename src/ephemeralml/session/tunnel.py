"""A tunnel to KMS: where it leads, and the credentials the host hands in with it. TLS inside it is the enclave's."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Final

from ephemeralml.codec import cbor
from ephemeralml.errors import KeyReleaseError
from ephemeralml.session.hostlink import malformed

# The partitions that have Nitro enclaves.
_DOMAINS: Final = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}
# They become parts of a request's header: nothing that ends a line, and a token as long as STS makes them at most.
_FORMS: Final = {
    "access_key_id": re.compile(r"\w{16,128}", re.ASCII),
    "secret_access_key": re.compile(r"[!-~]{1,128}"),
    "session_token": re.compile(r"[!-~]{1,8192}"),
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of AWS, as STS gives them."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)

    def to_map(self) -> dict[str, cbor.Value]:
        """For an answer of the host link."""
        return asdict(self)

    @classmethod
    def from_map(cls, value: dict[int | str, cbor.Value]) -> Credentials:
        """Raises `TransportError`."""
        texts = {str(name): text for name, text in value.items() if isinstance(text, str)}
        if texts.keys() != value.keys() or texts.keys() != _FORMS.keys():
            malformed("set of credentials")
        if not all(_FORMS[name].fullmatch(text) for name, text in texts.items()):
            malformed("set of credentials")
        return cls(**texts)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """KMS in one region: the name its certificate has, and the region its signatures are for."""

    host: str
    region: str

    @classmethod
    def of(cls, key_arn: str) -> Endpoint:
        """The endpoint of the key in a manifest. Raises `KeyReleaseError` for another partition."""
        _, partition, _, region, *_ = key_arn.split(":")
        if partition not in _DOMAINS:
            raise KeyReleaseError(
                f"the key is in the partition {partition}; a tunnel leads to KMS in {', '.join(_DOMAINS)}",
                code="kms.partition",
            )
        return cls(f"kms.{region}.{_DOMAINS[partition]}", region)
