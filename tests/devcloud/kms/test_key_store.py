"""Keys at rest, and the blobs made with them."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

import pytest

from ephemeralml.devcloud.kms import blob
from ephemeralml.devcloud.kms.api_error import ApiError
from ephemeralml.devcloud.kms.store import KeyStore, StoredKey
from ephemeralml.errors import ConfigurationError


def make_key() -> StoredKey:
    key_id = str(uuid.uuid4())
    return StoredKey(key_id, f"arn:{key_id}", os.urandom(32), "{}", "", "Enabled", 1.5)


def test_keys_survive_a_restart(tmp_path: Path) -> None:
    key = make_key()
    store = KeyStore(tmp_path / "keys.sqlite")
    store.add(key)
    store.set_policy(key.key_id, "new")
    store.close()
    store = KeyStore(tmp_path / "keys.sqlite")
    found = store.get(key.key_id)
    assert found is not None
    assert (found.material, found.policy, found.created_at) == (key.material, "new", 1.5)
    assert store.get("missing") is None
    store.close()


def test_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    path.touch(mode=0o644)
    KeyStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_material_is_not_printed() -> None:
    key = make_key()
    assert repr(key.material) not in repr(key)


def test_unusable_files(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, " * 100)
    for path in (tmp_path, tmp_path / "absent" / "keys", text):
        with pytest.raises(ConfigurationError) as caught:
            KeyStore(path)
        assert caught.value.code == "kms.store"


def test_blob_opens_only_whole_and_in_its_context() -> None:
    key = make_key()
    sealed = blob.seal(b"secret", key=key, context={"b": "2", "a": "1"})
    assert blob.key_id(sealed) == key.key_id
    assert blob.unseal(sealed, key=key, context={"a": "1", "b": "2"}) == b"secret"
    for context in ({}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1b", "": "2"}):
        with pytest.raises(ApiError):
            blob.unseal(sealed, key=key, context=context)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(ApiError) as caught:
            blob.unseal(bytes(changed), key=key, context={"a": "1", "b": "2"})
        assert caught.value.type == "InvalidCiphertextException"


@pytest.mark.parametrize("raw", [b"", b"\x01" * 44, b"\x02" * 100, b"\x01" * (blob.MAX_BLOB_BYTES + 1)])
def test_not_a_blob(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        blob.key_id(raw)
    assert caught.value.type == "InvalidCiphertextException"
