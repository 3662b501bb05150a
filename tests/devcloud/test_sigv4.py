"""SigV4 as botocore signs it, and everything that must not pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.devcloud.sigv4 import Credential, Refusal, SignatureRefusedError, SignedRequest, Verifier
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


KMS = Verifier(
    service="kms",
    region="us-east-1",
    credentials={CREDENTIAL.access_key_id: CREDENTIAL},
    must_sign=frozenset({"x-amz-target"}),
)


def check(headers: Headers, body: bytes = BODY, *, late: timedelta = timedelta(0)) -> Credential:
    payload_hash = hashlib.sha256(body).hexdigest()
    request = SignedRequest(method="POST", path="/", query="", headers=headers.items(), payload_hash=payload_hash)
    return KMS.verify(request, now=datetime.now(UTC) + late)


def refusal(headers: Headers, body: bytes = BODY, *, late: timedelta = timedelta(0)) -> Refusal:
    with pytest.raises(SignatureRefusedError) as caught:
        check(headers, body, late=late)
    assert CREDENTIAL.secret_access_key not in str(caught.value)
    return caught.value.reason


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
    assert refusal(signed(secret="another")) is Refusal.MISMATCH
    assert refusal(signed(), BODY + b" ") is Refusal.MISMATCH


@pytest.mark.parametrize("late", [timedelta(minutes=6), timedelta(minutes=-6), timedelta(days=1)])
def test_date_outside_five_minutes(late: timedelta) -> None:
    assert refusal(signed(), late=late) is Refusal.EXPIRED


def test_other_scope() -> None:
    assert refusal(signed(region="eu-west-1")) is Refusal.SCOPE
    assert refusal(signed(service="s3")) is Refusal.SCOPE


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
        (_without("Authorization"), Refusal.UNSIGNED),
        (_without("X-Amz-Date"), Refusal.INCOMPLETE),
        (_without("Host"), Refusal.INCOMPLETE),
        (_without("Content-Type"), Refusal.INCOMPLETE),
        (_replaced("Authorization", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), Refusal.INCOMPLETE),
        (_replaced("Authorization", ";x-amz-target", ""), Refusal.INCOMPLETE),
        (_replaced("Authorization", "content-type;host", "host;content-type"), Refusal.INCOMPLETE),
        (_replaced("Authorization", "AKIDEXAMPLE", "AKIDUNKNOWN"), Refusal.UNKNOWN_KEY),
        (_replaced("X-Amz-Target", "Decrypt", "Encrypt"), Refusal.MISMATCH),
        (_replaced("X-Amz-Date", "T", "-"), Refusal.INCOMPLETE),
        (_replaced("X-Amz-Date", "20", "19"), Refusal.SCOPE),
        (lambda headers: {**headers, "X-Amz-Smuggled": "1"}, Refusal.INCOMPLETE),
        (lambda headers: {**headers, "x-amz-target": "TrentService.Encrypt"}, Refusal.MISMATCH),
        (lambda headers: {**headers, "X-Amz-Security-Token": "x"}, Refusal.UNKNOWN_KEY),
    ],
)
def test_changed_headers(change: Callable[[Headers], Headers], expected: Refusal) -> None:
    assert refusal(change(signed())) is expected


@given(st.dictionaries(st.sampled_from(["authorization", "host", "x-amz-date", "x-amz-target"]), st.text()))
def test_any_headers_are_refused_with_an_api_error(headers: Headers) -> None:
    refusal(headers)


S3 = Verifier(service="s3", region="us-east-1", credentials={CREDENTIAL.access_key_id: CREDENTIAL})


def s3_request(path: str, query: str) -> SignedRequest:
    """A GET as botocore signs it for S3."""
    url = f"http://127.0.0.1:8000{path}" + (f"?{query}" if query else "")
    request = AWSRequest("GET", url, headers={"Host": "127.0.0.1:8000", "Range": "bytes=0-9"})
    S3SigV4Auth(Credentials(CREDENTIAL.access_key_id, CREDENTIAL.secret_access_key), "s3", "us-east-1").add_auth(
        request
    )
    headers = dict(request.headers.items())
    payload_hash = headers["X-Amz-Content-SHA256"]
    return SignedRequest(method="GET", path=path, query=query, headers=headers.items(), payload_hash=payload_hash)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/bucket/a/b.enc", ""),
        ("/bucket//a/../b", ""),
        ("/bucket/caf%C3%A9%20%2B%25", ""),
        ("/bucket/a", "uploads="),
        ("/bucket/a", "uploads"),
        ("/bucket/a", "uploadId=a%2Fb%3D&partNumber=10"),
    ],
)
def test_paths_and_queries_as_botocore_signs_them_for_s3(path: str, query: str) -> None:
    assert S3.verify(s3_request(path, query), now=datetime.now(UTC)) is CREDENTIAL


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"path": "/bucket/b"},
        {"path": "/bucket/A"},
        {"query": "partNumber=11&uploadId=x"},
        {"query": "partNumber=10&uploadId=x&uploads="},
        {"query": ""},
        {"payload_hash": hashlib.sha256(b"x").hexdigest()},
    ],
)
def test_nothing_of_an_s3_request_can_be_exchanged(changes: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    request = s3_request("/bucket/a", "partNumber=10&uploadId=x")
    assert S3.verify(request, now=now) is CREDENTIAL
    with pytest.raises(SignatureRefusedError) as caught:
        S3.verify(replace(request, **changes), now=now)
    assert caught.value.reason is Refusal.MISMATCH
