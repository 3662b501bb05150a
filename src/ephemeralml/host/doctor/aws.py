"""Checks of what AWS has for this host: who it is, whether the package is there, whether its key is for the image."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from ephemeralml.attestation import Measurements
from ephemeralml.errors import EphemeralMLError, KeyReleaseError, PackageError
from ephemeralml.host.doctor.finding import Finding
from ephemeralml.host.key_policy import Release, decide
from ephemeralml.host.kms import key_region
from ephemeralml.host.kms_keys import KmsKeys
from ephemeralml.host.s3.source import S3Source
from ephemeralml.host.sources import check_file, source_of
from ephemeralml.package import Artifact, Manifest

_CONFIG: Final = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
_NO_CREDENTIALS: Final = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError)


def role() -> tuple[Finding, str | None, datetime | None]:
    """Who this host is to AWS: its ARN too; and AWS's time as the answer's Date has it."""
    check = "role"
    try:
        session = boto3.session.Session()
        sts = session.client("sts", region_name=session.region_name or "us-east-1", config=_CONFIG)
        answer = sts.get_caller_identity()
        arn, date = str(answer["Arn"]), answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    except ClientError as error:
        said = f"AWS refuses this host's credentials ({error.response.get('Error', {}).get('Code', 'unknown')})"
        return Finding.failed(check, said, "check them, and the clock"), None, None
    except _NO_CREDENTIALS:
        fix = "give the instance a role (the stack does), or set AWS_PROFILE"
        return Finding.failed(check, "no AWS credentials on this machine", fix), None, None
    # The network; a profile or region that does not exist; what botocore lets through when the answer is not AWS's.
    except (BotoCoreError, ResponseParserError, ValueError, TypeError, AttributeError, LookupError) as error:
        fix = "check AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL, and that TLS to AWS gets out of this network"
        return Finding.failed(check, f"AWS could not be asked ({type(error).__name__})", fix), None, None
    try:
        return Finding.ok(check, arn), arn, parsedate_to_datetime(date)
    except ValueError:
        return Finding.ok(check, arn), arn, None


def package(location: str | None, *, owner: bytes | None = None) -> tuple[Finding, Manifest | None]:
    """Whether the package can be had whole, as far as sizes tell, and its manifest, signed with the key `owner`.

    None leaves it to the enclave whose package it takes. Of a package in S3 the manifest and each end are fetched.
    """
    check = "package"
    if location is None:
        return Finding.unknown(check, "no package given", "--package with a folder or s3://bucket/prefix"), None
    try:
        source = source_of(location)
        manifest = Manifest.verify(source.manifest(), owner=owner)
        for artifact in manifest.artifacts:
            if isinstance(source, S3Source):
                _check_end(source, artifact)
            else:
                check_file(Path(location), manifest, artifact)
    except EphemeralMLError as error:
        fix = "`ephemeralml push` it again, or copy the folder again; the role needs s3:GetObject below the prefix"
        return Finding.failed(check, str(error), fix), None
    said = f"{manifest.model_id} version {manifest.version} in {location}"
    if owner is None:
        said += f", signed by {manifest.owner.hex()[:16]}…, not checked against the enclave's --configuration"
    return Finding.ok(check, said), manifest


def _check_end(source: S3Source, artifact: Artifact) -> None:
    """Raises `PackageError` unless the object ends where the manifest says: its last byte, and none behind it."""
    with source.open(artifact.name, start=artifact.ciphertext_size - 1, size=2) as read:
        if len(read(2)) != 1:
            raise PackageError(f"{artifact.name} in S3 is not of the size its manifest names", code="package.size")


def key(
    key_arn: str | None, manifest: Manifest | None, measurements: Measurements | None, *, caller: str | None
) -> Finding:
    """Whether the package's key is enabled, and its policy releases it to the image when `caller` (an ARN) asks.

    Holes in the policy are another question, and not for the host to answer: `ephemeralml kms check`.
    """
    check = "key"
    packed = None if manifest is None else manifest.key.key_arn
    arn = key_arn or packed
    if arn is None:
        return Finding.unknown(check, "neither key nor package given", "--package, or --key-arn")
    if packed not in {None, arn}:
        return Finding.failed(check, f"the package was packed under another key, {packed}", "name that key, or none")
    try:
        keys = KmsKeys(region=key_region(arn))
        state = keys.describe(arn).get("KeyState")
        policy = keys.policy(arn)
        released = None
        if measurements is not None and caller is not None:
            context = {} if manifest is None else manifest.key.encryption_context
            released = decide(policy, Release(caller=caller, measurements=measurements, context=context))
    except KeyReleaseError as error:
        if error.code == "kms.access_denied":
            fix = "allow this role kms:DescribeKey and kms:GetKeyPolicy, as `ephemeralml kms policy` does"
            return Finding.unknown(check, "this role may not read the key's state and policy", fix)
        return Finding.failed(check, str(error), f"check {arn}, the role and the network")
    except EphemeralMLError as error:
        return Finding.failed(
            check, str(error), "have the key's administrator put a policy of `ephemeralml kms policy`"
        )
    if state != "Enabled":
        return Finding.failed(check, f"the key is {state}: KMS refuses every use", "have its administrator enable it")
    if measurements is None:
        return Finding.unknown(check, "enabled; the image's measurements are not known", "--eif with the enclave image")
    if released is False:
        return Finding.failed(
            check,
            f"its policy has no release for {caller} and the image with PCR0 {_short(measurements)}",
            "have its administrator add it: `ephemeralml kms policy`, or NextPcr0 to NextPcr2 of the stack",
        )
    if released is None:
        return Finding.unknown(
            check,
            "its policy has conditions that cannot be judged here, or it is not known who this host is",
            "see role; have the key's administrator read the policy, or put one of `ephemeralml kms policy`",
        )
    return Finding.ok(check, f"enabled, and released to the image with PCR0 {_short(measurements)}")


def _short(measurements: Measurements) -> str:
    return f"{measurements.pcr0.hex()[:16]}…"
