"""SigV4 as botocore signs it, and everything that must not pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.sigv4 import Credential, verify
from ephemeralml.errors import ConfigurationError

CREDENTIAL = Credential("AKIDEXAMPLE", "a-secret", "arn:aws:iam::111122223333:user/owner")
BODY = b'{"KeyId":"1"}'

Headers = dict[str, str]


def signed(*, secret: str = CREDENTIAL.secret_access_key, region: str = "us-east-1", service: str = "kms") -> Headers:
    headers = {
        "Host": "127.0.0.1:8000",
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "TrentService.Decrypt",
        "X-Amz-Extra": "  two   words ",
    }
    request = AWSRequest("POST", "http://127.0.0.1:8000/", headers=headers, data=BODY)
    SigV4Auth(Credentials(CREDENTIAL.access_key_id, secret), service, region).add_auth(request)
    return dict(request.headers.items())


def check(headers: Headers, body: bytes = BODY, *, late: timedelta = timedelta(0)) -> Credential:
    return verify(
        headers.items(),
        body,
        credentials={CREDENTIAL.access_key_id: CREDENTIAL},
        region="us-east-1",
        now=datetime.now(UTC) + late,
    )


def refusal(headers: Headers, body: bytes = BODY, *, late: timedelta = timedelta(0)) -> str:
    with pytest.raises(ApiError) as caught:
        check(headers, body, late=late)
    assert CREDENTIAL.secret_access_key not in str(caught.value)
    return caught.value.type


def test_signed_by_botocore() -> None:
    assert check(signed()) is CREDENTIAL
    assert check(signed(), late=timedelta(minutes=4)) is CREDENTIAL
    assert "a-secret" not in repr(CREDENTIAL)


@pytest.mark.parametrize(
    "arguments",
    [
        ("", "secret", CREDENTIAL.principal_arn),
        ("AKID/X", "secret", CREDENTIAL.principal_arn),
        ("AKID", "", CREDENTIAL.principal_arn),
        ("AKID", "secret", "owner"),
        ("AKID", "secret", "arn:aws:iam::111122223333:root"),
    ],
)
def test_credentials_that_cannot_work(arguments: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Credential(*arguments)


def test_wrong_secret_and_changed_body() -> None:
    assert refusal(signed(secret="another")) == "InvalidSignatureException"
    assert refusal(signed(), BODY + b" ") == "InvalidSignatureException"


@pytest.mark.parametrize("late", [timedelta(minutes=6), timedelta(minutes=-6), timedelta(days=1)])
def test_date_outside_five_minutes(late: timedelta) -> None:
    assert refusal(signed(), late=late) == "InvalidSignatureException"


def test_other_scope() -> None:
    assert refusal(signed(region="eu-west-1")) == "InvalidSignatureException"
    assert refusal(signed(service="s3")) == "InvalidSignatureException"


def _replaced(name: str, old: str, new: str) -> Callable[[Headers], Headers]:
    def change(headers: Headers) -> Headers:
        assert old in headers[name]
        return {**headers, name: headers[name].replace(old, new, 1)}

    return change


def _without(name: str) -> Callable[[Headers], Headers]:
    return lambda headers: {key: value for key, value in headers.items() if key != name}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without("Authorization"), "MissingAuthenticationTokenException"),
        (_without("X-Amz-Date"), "IncompleteSignatureException"),
        (_without("Host"), "IncompleteSignatureException"),
        (_without("Content-Type"), "IncompleteSignatureException"),
        (_replaced("Authorization", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "IncompleteSignatureException"),
        (_replaced("Authorization", ";x-amz-target", ""), "IncompleteSignatureException"),
        (_replaced("Authorization", "content-type;host", "host;content-type"), "IncompleteSignatureException"),
        (_replaced("Authorization", "AKIDEXAMPLE", "AKIDUNKNOWN"), "UnrecognizedClientException"),
        (_replaced("X-Amz-Target", "Decrypt", "Encrypt"), "InvalidSignatureException"),
        (_replaced("X-Amz-Date", "T", "-"), "IncompleteSignatureException"),
        (_replaced("X-Amz-Date", "20", "19"), "InvalidSignatureException"),
        (lambda headers: {**headers, "X-Amz-Smuggled": "1"}, "IncompleteSignatureException"),
        (lambda headers: {**headers, "x-amz-target": "TrentService.Encrypt"}, "InvalidSignatureException"),
        (lambda headers: {**headers, "X-Amz-Security-Token": "x"}, "UnrecognizedClientException"),
    ],
)
def test_changed_headers(change: Callable[[Headers], Headers], expected: str) -> None:
    assert refusal(change(signed())) == expected


@given(st.dictionaries(st.sampled_from(["authorization", "host", "x-amz-date", "x-amz-target"]), st.text()))
def test_any_headers_are_refused_with_an_api_error(headers: Headers) -> None:
    refusal(headers)
