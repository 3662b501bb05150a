"""One call of AWS KMS: credentials from boto3's default chain, time limits, retries, and its errors mapped to ours.

Retries are botocore's standard mode: throttling, 5xx and lost connections, with jittered exponential back-off; a
refusal is never asked twice.
"""

from __future__ import annotations

from collections.abc import Mapping
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

from ephemeralml.errors import ConfigurationError, KeyReleaseError
from ephemeralml.host.bounded import bound_answers
from ephemeralml.session.kms_errors import bad_answer, no_credentials, refused

_PATIENT: Final = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
# For what is only said beside an error.
_BRIEF: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})
_CREDENTIAL_ERRORS: Final = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError)


class KmsCalls:
    """KMS in one region. Safe to use from several threads."""

    def __init__(self, *, region: str, endpoint_url: str | None = None) -> None:
        """`endpoint_url` None is AWS's own. Raises `ConfigurationError` for a region or address that cannot work."""
        try:
            # A session of its own: boto3's default one is global state.
            session = boto3.session.Session()
            self._patient, self._brief = (
                session.client("kms", region_name=region, endpoint_url=endpoint_url, config=config)
                for config in (_PATIENT, _BRIEF)
            )
            for client in (self._patient, self._brief):
                bound_answers(client)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"no KMS client for {endpoint_url or region}: {error}", code="kms.client"
            ) from error

    def call(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        """KMS's answer to an operation (its boto3 name), after at most three attempts of 13 seconds.

        Raises `KeyReleaseError`, its code ``kms.`` and why.
        """
        return _call(self._patient, operation, parameters)

    def call_briefly(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        """As `call`, with one attempt of 3 seconds."""
        return _call(self._brief, operation, parameters)


def _call(client: Any, operation: str, parameters: Mapping[str, object]) -> Mapping[str, Any]:
    try:
        answer: Mapping[str, Any] = getattr(client, operation)(**parameters)
    except ClientError as error:
        raise _refusal(error) from error
    except _CREDENTIAL_ERRORS as error:
        raise no_credentials() from error
    # botocore lets its parsers' own errors through when the answer is not KMS's.
    except (ResponseParserError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise bad_answer("it is not an answer of KMS") from error
    except BotoCoreError as error:
        raise KeyReleaseError(
            f"KMS did not answer ({type(error).__name__}); check this host's network and the endpoint, then retry",
            code="kms.unreachable",
        ) from error
    return answer


def _refusal(error: ClientError) -> KeyReleaseError:
    metadata = error.response.get("ResponseMetadata", {})
    return refused(
        error.operation_name,
        str(error.response.get("Error", {}).get("Code", "")),
        status=metadata.get("HTTPStatusCode", 0),
        request=str(metadata.get("RequestId", "")),
    )
