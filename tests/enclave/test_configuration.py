from __future__ import annotations

import base64
import json
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.codec import cbor
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.configuration import MAX_BYTES, Configuration
from ephemeralml.errors import ConfigurationError
from ephemeralml.session.limits import Limits

OWNER = b"\xab" * 32
SMALLEST = {"model_owner": OWNER.hex()}
ROOT = base64.b64encode(DevelopmentRoot.create().der).decode()


def parse(**changes: Any) -> Configuration:
    return Configuration.parse(json.dumps(SMALLEST | changes).encode())


def test_defaults() -> None:
    assert parse() == Configuration(model_owner=OWNER)
    assert parse().minimum_model_version == 1
    assert parse().limits == Limits()


def test_everything_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "enclave.json"
    values = {"model_id": "tiny", "minimum_model_version": 3, "issuer": "me", "limits": {"connections": 9}}
    path.write_text(json.dumps(SMALLEST | values))
    assert Configuration.load(path) == Configuration(
        model_owner=OWNER, model_id="tiny", minimum_model_version=3, issuer="me", limits=Limits(connections=9)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model_owner": None},
        {"model_owner": "ab" * 31},
        {"model_owner": "zz" * 32},
        {"model_owner": 5},
        {"model_id": None},
        {"model_id": ""},
        {"model_id": "a\0"},
        {"model_id": 1},
        {"model_id": "x" * 257},
        {"minimum_model_version": 0},
        {"minimum_model_version": True},
        {"minimum_model_version": "1"},
        {"minimum_model_version": 2**63},
        {"issuer": ""},
        {"issuer": "x" * 201},
        {"issuer": 1},
        {"limits": []},
        {"limits": None},
        {"limits": {"conections": 1}},
        {"limits": {"connections": 0}},
        {"limits": {"connections": 1.5}},
        {"kms_roots": []},
        {"kms_roots": None},
        {"kms_roots": True},
        {"kms_roots": ROOT},
        {"kms_roots": {"a": ROOT}},
        {"kms_roots": [ROOT, 1]},
        {"kms_roots": [[ROOT]]},
        {"kms_roots": [ROOT, ""]},
        {"kms_roots": [ROOT[:-8]]},
        {"kms_roots": [ROOT + "\n"]},
        {"kms_roots": [ROOT + "\u00e9"]},
        {"kms_roots": [base64.b64encode(base64.b64decode(ROOT) + b"x").decode()]},
        {"kms_roots": ["-----BEGIN CERTIFICATE-----"]},
        {"unknown": 1},
    ],
)
def test_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(**changes)
    assert caught.value.code in {"configuration.malformed", "configuration.limit"}


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_configuration_error(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        Configuration.parse(data)


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b"[" * 100_000, b'{"model_owner": "' + b"ab" * 32 + b'"} x'])
def test_not_an_object(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        Configuration.parse(data)


def test_a_repeated_key_is_refused() -> None:
    for text in ('"model_id": "good", "model_id": "bad"', '"limits": {"connections": 1, "connections": 2}'):
        with pytest.raises(ConfigurationError) as caught:
            Configuration.parse(f'{{"model_owner": "{OWNER.hex()}", {text}}}'.encode())
        assert caught.value.code == "configuration.malformed"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigurationError) as caught:
            Configuration.load(path)
        assert caught.value.code == "configuration.unreadable"
    large = tmp_path / "large"
    large.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigurationError) as caught:
        Configuration.load(large)
    assert caught.value.code == "configuration.malformed"


def test_what_is_measured_does_not_depend_on_how_it_is_written() -> None:
    plain = Configuration.parse(json.dumps(SMALLEST).encode())
    spelled = Configuration.parse(
        json.dumps({"limits": {"connections": 512}, "issuer": "ephemeralml", **SMALLEST}, indent=4).encode()
    )
    assert plain.to_bytes() == spelled.to_bytes()
    assert plain.digest == sha256(plain.to_bytes()).digest()


def test_every_value_is_measured() -> None:
    base = Configuration(model_owner=OWNER)
    others = [
        replace(base, model_owner=b"\xac" * 32),
        replace(base, model_id="tiny"),
        replace(base, minimum_model_version=2),
        replace(base, issuer="other"),
        replace(base, kms_roots=(b"a", b"b")),
        replace(base, kms_roots=(b"ab",)),
        *(replace(base, limits=replace(Limits(), **{item.name: 1})) for item in fields(Limits)),
    ]
    assert len({other.digest for other in (base, *others)}) == len(others) + 1


def test_roots_of_kms() -> None:
    configuration = parse(kms_roots=[ROOT])
    assert configuration.kms_roots == (base64.b64decode(ROOT),)
    measured: Any = cbor.decode(configuration.to_bytes())
    assert measured["kms_roots"] == [base64.b64decode(ROOT)]


def test_a_configuration_without_roots_is_measured_as_before_there_were_any() -> None:
    measured: Any = cbor.decode(parse().to_bytes())
    assert set(measured) == {"model_owner", "model_id", "minimum_model_version", "issuer", "limits"}


def test_its_file_has_every_value_and_is_one_for_one_measured_form() -> None:
    small, full = parse(), parse(model_id="tiny", kms_roots=[ROOT], limits={"idle_seconds": 5})
    assert [Configuration.parse(each.to_json()) for each in (small, full)] == [small, full]
    assert parse(issuer=small.issuer, limits={}).to_json() == small.to_json()
    assert json.loads(small.to_json())["limits"].keys() == {item.name for item in fields(Limits)}
