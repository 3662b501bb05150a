from __future__ import annotations

from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.errors import KeyReleaseError, TransportError
from ephemeralml.session.tunnel import Credentials, Endpoint

CREDENTIALS = Credentials("ASIA" + "X" * 16, "a/secret+", "a-token==")
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


def test_credentials_round_trip_and_are_not_shown() -> None:
    value: Any = cbor.decode(cbor.encode(CREDENTIALS.to_map()))
    assert Credentials.from_map(value) == CREDENTIALS
    assert "secret+" not in repr(CREDENTIALS)
    assert "a-token" not in repr(CREDENTIALS)


@pytest.mark.parametrize(
    "change",
    [
        {"access_key_id": "short"},
        {"access_key_id": "A" * 129},
        {"access_key_id": "ASIA/" + "X" * 16},
        {"access_key_id": "\xc4" * 20},
        {"secret_access_key": ""},
        {"secret_access_key": "s" * 129},
        {"session_token": ""},
        {"session_token": "t" * 8193},
        {"session_token": "a b"},
        {"session_token": "t\n"},
        {"session_token": "t\r\nx-amz-target: TrentService.Encrypt"},
        {"session_token": "\u2028"},
        {"session_token": b"token"},
        {"session_token": None},
        {"more": "text"},
        {"more": 1},
        {7: "text"},
    ],
)
def test_malformed_credentials(change: dict[int | str, Any]) -> None:
    value: dict[Any, Any] = {**CREDENTIALS.to_map(), **change}
    with pytest.raises(TransportError) as caught:
        Credentials.from_map(value)
    assert caught.value.code == "hostlink.malformed"


@pytest.mark.parametrize("missing", ["access_key_id", "secret_access_key", "session_token"])
def test_missing_credentials(missing: str) -> None:
    value: dict[Any, Any] = {**CREDENTIALS.to_map()}
    del value[missing]
    with pytest.raises(TransportError):
        Credentials.from_map(value)


@given(st.dictionaries(st.sampled_from(list(CREDENTIALS.to_map())) | st.integers(0, 3), st.text() | st.binary()))
def test_any_map_is_a_transport_error(value: dict[int | str, Any]) -> None:
    with pytest.raises(TransportError):
        Credentials.from_map(value)


@given(st.text(VISIBLE, min_size=1, max_size=128), st.text(VISIBLE, min_size=1, max_size=500))
def test_whatever_sts_gives_is_taken(secret: str, token: str) -> None:
    credentials = Credentials("ASIA" + "X" * 16, secret, token)
    value: Any = credentials.to_map()
    assert Credentials.from_map(value) == credentials


@pytest.mark.parametrize(
    ("partition", "region"), [("aws", "eu-central-1"), ("aws-us-gov", "us-gov-west-1"), ("aws-cn", "cn-north-1")]
)
def test_endpoints_are_botos(partition: str, region: str) -> None:
    endpoint = Endpoint.of(f"arn:{partition}:kms:{region}:000000000000:key/00000000-0000-0000-0000-000000000000")
    client: Any = boto3.session.Session().client("kms", region_name=region)
    assert f"https://{endpoint.host}" == client.meta.endpoint_url
    assert endpoint.region == region
    client.close()


def test_a_partition_without_an_endpoint_here() -> None:
    with pytest.raises(KeyReleaseError) as caught:
        Endpoint.of("arn:aws-iso:kms:us-iso-east-1:000000000000:key/00000000-0000-0000-0000-000000000000")
    assert caught.value.code == "kms.partition"
