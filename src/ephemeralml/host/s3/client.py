"""S3 through boto3: where a package lies, and what a failure means. Credentials come from boto3's default chain.

Every failure of S3 is a `PackageError` whose code starts with ``s3.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

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
from urllib3.exceptions import HTTPError

from ephemeralml.errors import ConfigurationError, PackageError
from ephemeralml.host.bounded import bound_answers
from ephemeralml.package.manifest import is_artifact_name
from ephemeralml.package.source import ARTIFACT_SUFFIX, MANIFEST_FILE

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 10
ATTEMPTS: Final = 3
# Of one client, so of all ranges read at once; more would be opened and thrown away.
CONNECTIONS: Final = 32

_URL: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.ASCII)
_KIND: Final = re.compile(r"\w{1,64}", re.ASCII)
_CREDENTIAL_ERRORS: Final = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError)

# S3's error code, or the status where an answer has no body → our code; what to do, by our code.
_CODES: Final[Mapping[str, str]] = {
    "AccessDenied": "access_denied",
    "403": "access_denied",
    "NoSuchBucket": "no_bucket",
    "NoSuchKey": "missing",
    "404": "missing",
    "ConditionalRequestConflict": "changed",
    "PreconditionFailed": "changed",
    "412": "changed",
    "InvalidRange": "truncated",
    "416": "truncated",
    "ExpiredToken": "credentials",
    "InvalidAccessKeyId": "credentials",
    "InvalidToken": "credentials",
    "RequestTimeTooSkewed": "credentials",
    "SignatureDoesNotMatch": "credentials",
    "AuthorizationHeaderMalformed": "region",
    "IllegalLocationConstraintException": "region",
    "PermanentRedirect": "region",
    "301": "region",
    "InternalError": "unreachable",
    "RequestTimeout": "unreachable",
    "ServiceUnavailable": "unreachable",
    "SlowDown": "unreachable",
    "500": "unreachable",
    "502": "unreachable",
    "503": "unreachable",
    "504": "unreachable",
}
_ADVICE: Final[Mapping[str, str]] = {
    "access_denied": "this machine's role may not do that; allow it in the role's and the bucket's policy. S3 says the "
    "same of what does not exist to whoever may not list the bucket, so check the address too",
    "missing": "there is nothing at that address; check the prefix, then `ephemeralml push` the package",
    "no_bucket": "that bucket does not exist; check its name and the endpoint",
    "changed": "the object was replaced after this process first read it; start again, to read one package whole",
    "truncated": "the object is shorter than the package's; push the package again",
    "credentials": "this machine's AWS credentials were not accepted; check them and the clock",
    "region": "the bucket is in another region; set AWS_REGION to it, and check the endpoint",
    "unreachable": "S3 is overloaded or down, and repeating did not help; try again later",
    "refused": "see the error code in AWS's S3 API reference",
}


@dataclass(frozen=True, slots=True)
class Location:
    """Where packages of one model lie: ``<prefix>/manifest.cose``, and each package's artifacts under its id."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Location:
        """Read ``s3://bucket/prefix``. Raises `ConfigurationError` (``s3.url``)."""
        match = _URL.fullmatch(url)
        prefix = (match[2] or "").removesuffix("/") if match else ""
        # The same plain form as artifacts' names: no dots to climb with, nothing to encode.
        if match is None or (prefix and not is_artifact_name(prefix)):
            raise ConfigurationError(
                f"{url!r} is no place in S3; write s3://bucket/prefix, the prefix of letters, digits, . _ - and /",
                code="s3.url",
            )
        return cls(match[1], prefix)

    @property
    def manifest(self) -> str:
        """The manifest's key."""
        return self._key(MANIFEST_FILE)

    def artifact(self, package_id: bytes, name: str) -> str:
        """An artifact's key: of its package alone, so that a new version takes no place of an old one's."""
        return self._key(f"{package_id.hex()}/{name}{ARTIFACT_SUFFIX}")

    def url(self, key: str) -> str:
        """`key` as a person reads it."""
        return f"s3://{self.bucket}/{key}"

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def make_client(endpoint_url: str | None) -> Any:
    """boto3's S3 client; None is AWS's own endpoint. Raises `ConfigurationError` (``s3.client``)."""
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # What is read is authenticated chunk by chunk in the enclave.
        response_checksum_validation="when_required",
        # Whoever else serves S3 has no host name for each bucket.
        s3={"addressing_style": "path"} if endpoint_url else None,
    )
    try:
        # A session of its own: boto3's default one is global state.
        client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"no S3 client for {endpoint_url or 'AWS'}: {error}", code="s3.client") from error
    bound_answers(client)
    return client


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Calls of boto3 about `url`: what they raise becomes a `PackageError`, an `OSError` of a local file excepted."""
    try:
        yield
    except ClientError as error:
        said = str(error.response.get("Error", {}).get("Code", ""))
        kind = said if _KIND.fullmatch(said) else "unknown"
        code = _CODES.get(kind, "refused")
        raise PackageError(f"S3 refused {url} ({kind}): {_ADVICE[code]}", code=f"s3.{code}") from error
    except _CREDENTIAL_ERRORS as error:
        raise PackageError(f"S3 was not asked for {url}: {_ADVICE['credentials']}", code="s3.credentials") from error
    except (BotoCoreError, HTTPError) as error:
        raise unreachable(url, type(error).__name__) from error
    # botocore lets its parsers' own errors through when the answer is not S3's.
    except (ResponseParserError, ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise bad_answer(url, "it is not an answer of S3") from error


def truncated(url: str) -> PackageError:
    """The error for an object that ends before what is asked for begins."""
    return PackageError(f"{url} ends too early: {_ADVICE['truncated']}", code="s3.truncated")


def changed(url: str) -> PackageError:
    """The error for an object that is not the one first seen."""
    return PackageError(f"{url} is another object than before: {_ADVICE['changed']}", code="s3.changed")


def unreachable(url: str, why: str) -> PackageError:
    """The error for an S3 that does not answer, or stops in the middle of it."""
    return PackageError(
        f"S3 did not deliver {url} ({why}); check this host's network and the endpoint, then retry",
        code="s3.unreachable",
    )


def bad_answer(url: str, why: str) -> PackageError:
    """The error for an answer that S3 would not give."""
    return PackageError(
        f"the answer about {url} on S3's side cannot be used: {why}; check that the endpoint is an S3 service",
        code="s3.answer",
    )
