"""Starting and stopping the server, and a key that is not enabled."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from ephemeralml.attestation import Policy
from ephemeralml.devcloud.kms import KmsServer
from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.operations import Operations
from ephemeralml.devcloud.kms.policy import default_policy
from ephemeralml.devcloud.kms.store import KeyStore, StoredKey
from ephemeralml.errors import ConfigurationError, PolicyError


def test_port_in_use(tmp_path: Path) -> None:
    with KmsServer(store=tmp_path / "one", credentials=[], roots=[]) as running:
        port = int(running.url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"{port}.*choose another --port") as caught:
            KmsServer(store=tmp_path / "two", credentials=[], roots=[], port=port)
        assert caught.value.code == "kms.address"
        assert not (tmp_path / "two").exists()


def test_store_that_cannot_be_opened_gives_the_port_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KmsServer(store=tmp_path, credentials=[], roots=[])
    assert caught.value.code == "kms.store"


def test_port_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KmsServer(store=tmp_path / "keys", credentials=[], roots=[], port=70000)
    assert caught.value.code == "kms.address"


def test_root_that_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        KmsServer(store=tmp_path / "keys", credentials=[], roots=[b"x"])


def test_uvicorn_that_does_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ephemeralml.devcloud.app_server._START_SECONDS", 0.05)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    with pytest.raises(ConfigurationError) as caught, KmsServer(store=tmp_path / "keys", credentials=[], roots=[]):
        pytest.fail("entered")
    assert caught.value.code == "kms.start"


def test_never_started(tmp_path: Path) -> None:
    KmsServer(store=tmp_path / "keys", credentials=[], roots=[]).close()


def test_disabled_key(tmp_path: Path) -> None:
    account = "0" * 12
    key_id = str(uuid.uuid4())
    arn = f"arn:aws:kms:us-east-1:{account}:key/{key_id}"
    store = KeyStore(tmp_path / "keys")
    store.add(StoredKey(key_id, arn, os.urandom(32), default_policy(account), "", "Disabled", 0.0))
    operations = Operations(
        store=store, evidence=Policy.insecure_any_measurement(), region="us-east-1", account_id=account
    )
    principal = f"arn:aws:iam::{account}:user/owner"
    metadata = operations.perform("DescribeKey", {"KeyId": arn}, principal)["KeyMetadata"]
    assert (metadata["Enabled"], metadata["KeyState"]) == (False, "Disabled")
    with pytest.raises(ApiError) as caught:
        operations.perform("GenerateDataKey", {"KeyId": arn, "KeySpec": "AES_256"}, principal)
    assert caught.value.type == "DisabledException"
    store.close()
