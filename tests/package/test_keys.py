from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.errors import ConfigurationError
from ephemeralml.package import DataKey, generate_owner_key, load_owner_key


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def refused(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_owner_key(path)
    return caught.value.code


def test_generate_and_load(tmp_path: Path) -> None:
    path = tmp_path / "owner.pem"
    key = generate_owner_key(path)
    assert load_owner_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert load_owner_key(str(path)).private_bytes_raw() == key.private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert (tmp_path / "owner.pem.pub").read_text() == key.public_key().public_bytes_raw().hex() + "\n"


@pytest.mark.parametrize("existing", ["owner.pem", "owner.pem.pub"])
def test_nothing_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ConfigurationError) as caught:
        generate_owner_key(tmp_path / "owner.pem")
    assert caught.value.code == "key.exists"
    assert existing in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "owner.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError) as caught:
        generate_owner_key(tmp_path / "owner.pem")
    assert caught.value.code == "key.exists"
    assert not (tmp_path / "elsewhere").exists()


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate_owner_key(tmp_path / "absent" / "owner.pem")
    assert caught.value.code == "key.unwritable"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_both_files_or_neither(tmp_path: Path, failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise failure

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ConfigurationError if isinstance(failure, OSError) else KeyboardInterrupt):
        generate_owner_key(tmp_path / "owner.pem")
    assert calls == 2
    assert list(tmp_path.iterdir()) == []


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "owner.pem"
    assert refused(path) == "key.unreadable"
    assert refused(tmp_path) == "key.unreadable"
    public = Ed25519PrivateKey.generate().public_key()
    for content, code in (
        (pem(ec.generate_private_key(ec.SECP384R1())), "key.type"),
        (pem(Ed25519PrivateKey.generate(), b"secret"), "key.malformed"),
        (
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "key.malformed",
        ),
        (b"", "key.malformed"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "key.malformed"),
        (os.urandom(100), "key.malformed"),
        (pem(Ed25519PrivateKey.generate()) + b"\n" * (16 << 10), "key.malformed"),
    ):
        path.write_bytes(content)
        assert refused(path) == code


def test_a_data_key_does_not_show_its_secret() -> None:
    key = DataKey(plaintext=b"secret" * 5 + b"!!", wrapped=b"w", key_arn="arn", provider="aws-kms")
    assert "secret" not in repr(key)
