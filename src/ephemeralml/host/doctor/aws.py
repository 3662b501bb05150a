"""Checks of what AWS has for this host: who it is, whether the key is for its image, whether the package is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's, no builtin
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from ephemeralml.attestation import Measurements
from ephemeralml.errors import EphemeralMLError
from ephemeralml.host.doctor.finding import Finding
from ephemeralml.host.kms import key_region
from ephemeralml.package import FolderSource, Manifest
from ephemeralml.package.manifest import MAX_MANIFEST_SIZE
from ephemeralml.package.source import MANIFEST_FILE

_CONFIG: Final = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
_NO_CREDENTIALS: Final = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError)
_REGISTER: Final = "kms:recipientattestation:"
_NETWORK: Final = "check the network, the region and the security group: TLS to AWS must get out"
_OWN_CHECK: Final = "have the key's administrator run `ephemeralml kms check`"


@dataclass(frozen=True, slots=True)
class Refused:
    """What AWS, or the way to it, said instead of an answer."""

    code: str
    reason: str
    fix: str


def client(service: str, *, region: str | None = None) -> Any:
    """A boto3 client under the default credentials; us-east-1 where no region is set at all."""
    session = boto3.session.Session()
    return session.client(service, region_name=region or session.region_name or "us-east-1", config=_CONFIG)


def credentials(*, connect: Callable[[], Any]) -> tuple[Finding, datetime | None]:
    """Who this host is to AWS, and AWS's time as the answer's Date has it; `connect` makes the STS client."""
    answer = _ask(connect, "get_caller_identity")
    if isinstance(answer, Refused):
        return Finding.failed("role", answer.reason, answer.fix), None
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        server = parsedate_to_datetime(date)
    except ValueError:
        server = None
    return Finding.ok("role", str(answer.get("Arn"))), server


def model_key(key_arn: str | None, measurements: Measurements | None, *, connect: Callable[[str], Any]) -> Finding:
    """Whether the key is enabled and its policy has a release with the image's `measurements`.

    `connect` makes a KMS client for a region. Holes in the policy are another question: `ephemeralml kms check`.
    """
    check = "key"
    if key_arn is None:
        return Finding.unknown(check, "no key given", "--key-arn with the ARN that the package was packed under")
    try:
        region = key_region(key_arn)
    except EphemeralMLError as error:
        return Finding.failed(check, str(error), "--key-arn arn:aws:kms:<region>:<account>:key/<id>")
    described = _ask(lambda: connect(region), "describe_key", KeyId=key_arn)
    if isinstance(described, Refused):
        return _unread(check, "state", described)
    state = described.get("KeyMetadata", {}).get("KeyState")
    if state != "Enabled":
        return Finding.failed(check, f"the key is {state}: KMS refuses every use", "have its administrator enable it")
    got = _ask(lambda: connect(region), "get_key_policy", KeyId=key_arn, PolicyName="default")
    if isinstance(got, Refused):
        return _unread(check, "policy", got)
    if measurements is None:
        return Finding.unknown(
            check, "enabled; the image's measurements are not known", "--eif, and nitro-cli on the PATH"
        )
    image = measurements.pcr0.hex()[:16]
    if not releases_to(got.get("Policy", ""), measurements):
        return Finding.failed(
            check,
            f"its policy has no statement for the image with PCR0 {image}…",
            "have its administrator add the release: `ephemeralml kms policy`, or NextPcr0 to 2 of the stack",
        )
    return Finding.ok(check, f"enabled, and released to the image with PCR0 {image}…")


def releases_to(policy: str, measurements: Measurements) -> bool:
    """Whether a statement allows Decrypt on registers that are all of `measurements`, PCR0 among them."""
    try:
        statements = json.loads(policy)["Statement"]
        return any(_releases(statement, measurements) for statement in statements)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def package(location: str | None, *, connect: Callable[[], Any]) -> Finding:
    """Whether the package's manifest can be had, from a folder or from ``s3://bucket/prefix``."""
    check = "package"
    if location is None:
        return Finding.unknown(check, "no package given", "--package with a folder or s3://bucket/prefix")
    if not location.startswith("s3://"):
        return _folder(check, Path(location))
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    key = f"{prefix.rstrip('/')}/{MANIFEST_FILE}" if prefix.rstrip("/") else MANIFEST_FILE
    # The answer to HEAD has no body, so S3 cannot say what is wrong beyond the status.
    answer = _ask(connect, "head_object", Bucket=bucket, Key=key)
    if isinstance(answer, Refused):
        if answer.code in {"403", "404"}:
            fix = f"push it (`ephemeralml push`), or allow this role s3:GetObject on {location}/*"
            return Finding.failed(check, f"no {key} for this role in {bucket} ({answer.code})", fix)
        return Finding.failed(check, answer.reason, answer.fix)
    size = answer.get("ContentLength", 0)
    if not 0 < size <= MAX_MANIFEST_SIZE:
        return Finding.failed(check, f"{key} has {size} bytes, which is no manifest", "push the package again")
    return Finding.ok(check, f"{location} has a manifest of {size} bytes")


def _folder(check: str, folder: Path) -> Finding:
    source = FolderSource(folder)
    try:
        manifest = Manifest.verify(source.manifest(), owner=None)
        for artifact in manifest.artifacts:
            with source.open(artifact.name):
                pass
    except EphemeralMLError as error:
        return Finding.failed(check, str(error), "copy the package again, or pack it: `ephemeralml pack`")
    return Finding.ok(check, f"{manifest.model_id} version {manifest.version} in {folder}")


def _releases(statement: Mapping[str, Any], measurements: Measurements) -> bool:
    actions = statement["Action"]
    if statement["Effect"] != "Allow" or "kms:Decrypt" not in (actions if isinstance(actions, list) else [actions]):
        return False
    wanted = {
        key.lower().removeprefix(_REGISTER): values
        for operator in ("StringEquals", "StringEqualsIgnoreCase")
        for key, values in statement.get("Condition", {}).get(operator, {}).items()
        if key.lower().startswith(_REGISTER)
    }
    has = {f"pcr{index}": value.hex() for index, value in measurements.registers.items()}
    has["imagesha384"] = has["pcr0"]
    return "imagesha384" in wanted and all(
        has.get(name) in [value.lower() for value in (values if isinstance(values, list) else [values])]
        for name, values in wanted.items()
    )


def _unread(check: str, what: str, refused: Refused) -> Finding:
    if refused.code == "AccessDeniedException":
        return Finding.unknown(check, f"this role may not read the key's {what}", _OWN_CHECK)
    return Finding.failed(check, refused.reason, refused.fix)


def _ask(connect: Callable[[], Any], operation: str, **parameters: str) -> Mapping[str, Any] | Refused:
    try:
        answer: Mapping[str, Any] = getattr(connect(), operation)(**parameters)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        return Refused(code, f"AWS refuses: {code}", "check what the host's role may do, and the clock")
    except _NO_CREDENTIALS:
        fix = "give the instance a role (the stack does), or set AWS_PROFILE"
        return Refused("credentials", "no AWS credentials on this machine", fix)
    except (ConnectionError, HTTPClientError) as error:
        return Refused("unreachable", f"AWS does not answer ({type(error).__name__})", _NETWORK)
    # A profile or region that does not exist; what botocore's parsers let through when the answer is not AWS's.
    except (BotoCoreError, ResponseParserError, ValueError, TypeError, AttributeError) as error:
        fix = "check AWS_PROFILE, AWS_REGION and the AWS_ENDPOINT_URL variables"
        return Refused("client", f"AWS could not be asked ({type(error).__name__})", fix)
    return answer
