"""The enclave's signer is botocore's for its one request, and what devcloud's KMS verifies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.devcloud.sigv4 import Credential, SignatureRefusedError, SignedRequest, Verifier
from ephemeralml.enclave.sigv4 import signed_headers
from ephemeralml.session.tunnel import Credentials, Endpoint

ENDPOINT = Endpoint("kms.eu-central-1.amazonaws.com", "eu-central-1")
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


@given(
    body=st.binary(max_size=300),
    secret=st.text(VISIBLE, min_size=1, max_size=128),
    token=st.text(VISIBLE, min_size=1, max_size=300),
    now=st.integers(1_577_836_800, 4_070_908_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_signs_as_botocore_does(body: bytes, secret: str, token: str, now: datetime) -> None:
    request = AWSRequest(
        "POST",
        f"https://{ENDPOINT.host}/",
        headers={
            "Host": ENDPOINT.host,
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "TrentService.Decrypt",
        },
        data=body,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(auth, "get_current_datetime", lambda: now)
        auth.SigV4Auth(BotocoreCredentials("ASIA" + "X" * 16, secret, token), "kms", "eu-central-1").add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    credentials = Credentials("ASIA" + "X" * 16, secret, token)
    assert signed_headers(body, endpoint=ENDPOINT, credentials=credentials, now=now) == theirs


def test_devclouds_kms_verifies_it_and_nothing_changed() -> None:
    role = Credential("ASIA" + "X" * 16, "secret", "arn:aws:iam::000000000000:role/host", "token")
    now = datetime.now(UTC)
    credentials = Credentials(role.access_key_id, role.secret_access_key, role.session_token)
    headers = signed_headers(b"{}", endpoint=ENDPOINT, credentials=credentials, now=now)

    def check(headers: dict[str, str], body: bytes = b"{}", now: datetime = now) -> Credential:
        verifier = Verifier(
            service="kms",
            region="eu-central-1",
            credentials={role.access_key_id: role},
            must_sign=frozenset({"x-amz-target"}),
        )
        request = SignedRequest(
            method="POST", path="/", query="", headers=headers.items(), payload_hash=sha256(body).hexdigest()
        )
        return verifier.verify(request, now=now)

    assert check(headers) is role
    for changed in (
        {**headers, "host": "kms.eu-west-1.amazonaws.com"},
        {**headers, "x-amz-target": "TrentService.Encrypt"},
        {**headers, "x-amz-security-token": "other"},
        {**headers, "x-amz-security-token": ""},
    ):
        with pytest.raises(SignatureRefusedError):
            check(changed)
    for body, late in ((b"{ }", timedelta(0)), (b"{}", timedelta(minutes=6))):
        with pytest.raises(SignatureRefusedError):
            check(headers, body, now + late)
