"""CiphertextForRecipient: the recorded ones parse, the keyed one opens, everything else is one and the same error."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms as asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.devcloud.kms.cms import envelope
from ephemeralml.enclave.key_release import MAX_ENVELOPE_BYTES, KeyRequest, open_envelope, parse_envelope
from ephemeralml.errors import KeyReleaseError

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
DEK = bytes(range(32))
BLOB = envelope(DEK, KEY.public_key())
SKI = hashlib.sha256(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
SHA256 = {"algorithm": "sha256"}
OAEP = {"hash_algorithm": SHA256, "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": SHA256}}
SHA1 = {"algorithm": "sha1"}
OAEP_SHA1 = {"hash_algorithm": SHA1, "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": SHA1}}


def refusal(blob: bytes, key: rsa.RSAPrivateKey = KEY) -> KeyReleaseError:
    with pytest.raises(KeyReleaseError) as caught:
        open_envelope(blob, key)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    return error


UNIFORM = str(refusal(b""))


def encrypt(key: bytes, padded: bytes, iv: bytes = bytes(16)) -> bytes:
    encryptor = Cipher(AES256(key), CBC(iv)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def build(
    *,
    cek: bytes = bytes(32),
    padded: bytes = DEK + b"\x10" * 16,
    oaep: dict[str, Any] | None = None,
    oaep_hash: hashes.HashAlgorithm | None = None,
    recipient: dict[str, Any] | None = None,
    recipients: int = 1,
    content: dict[str, Any] | None = None,
    **members: Any,
) -> bytes:
    """An EnvelopedData in DER, right unless told otherwise."""
    used = oaep_hash or hashes.SHA256()
    encrypted_key = KEY.public_key().encrypt(cek, padding.OAEP(padding.MGF1(used), used, None))
    transport = asn1.KeyTransRecipientInfo(
        {
            "version": "v2",
            "rid": asn1.RecipientIdentifier("subject_key_identifier", SKI),
            "key_encryption_algorithm": {"algorithm": "rsaes_oaep", "parameters": OAEP if oaep is None else oaep},
            "encrypted_key": encrypted_key,
            **(recipient or {}),
        }
    )
    data = {
        "version": "v2",
        "recipient_infos": [asn1.RecipientInfo("ktri", transport)] * recipients,
        "encrypted_content_info": {
            "content_type": "data",
            "content_encryption_algorithm": {"algorithm": "aes256_cbc", "parameters": bytes(16)},
            "encrypted_content": encrypt(bytes(32), padded),
            **(content or {}),
        },
        **members,
    }
    message = asn1.ContentInfo({"content_type": "enveloped_data", "content": asn1.EnvelopedData(data)})
    encoded: bytes = message.dump()
    return encoded


def test_vectors_parse_as_recorded(vectors: Path) -> None:
    entries = json.loads((vectors / "cms" / "manifest.json").read_text())
    assert len(entries) == 7
    for entry in entries:
        parsed = parse_envelope((vectors / "cms" / entry["file"]).read_bytes())
        assert len(parsed.ski) == 32
        assert len(parsed.encrypted_key) == 256
        assert parsed.oaep_hash == ("sha1" if "sha1" in entry["file"] else "sha256")
        parts = {name.split("_out")[0]: bytes.fromhex(part) for name, part in entry.get("expected_parts", {}).items()}
        assert all(getattr(parsed, name) == part for name, part in parts.items())
        assert "expected_parts" not in entry or set(parts) == {"ciphertext", "iv", "encrypted_key"}


def test_keyed_vector_opens(vectors: Path) -> None:
    blob = (vectors / "cms" / "edgebit_enclaver_hello.ber").read_bytes()
    key = load_pem_private_key((vectors / "cms" / "edgebit_enclaver_hello.key.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert open_envelope(blob, key) == b"Hello, World"
    assert str(refusal(blob)) == UNIFORM
    for position in range(len(blob)):
        mutated = bytearray(blob)
        mutated[position] ^= 0x41
        try:
            open_envelope(bytes(mutated), key)
        except KeyReleaseError as error:
            assert (str(error), error.code) == (UNIFORM, "key_release.envelope")  # noqa: PT017
        else:
            # The IV and the ciphertext: CBC is malleable, the structure around it is not.
            assert position in range(415, 431) or position in range(435, 451)


def test_der_opens_too() -> None:
    assert open_envelope(build(), KEY) == DEK


def test_request_opens_its_own_answer_only() -> None:
    request = KeyRequest()
    public_key = KEY.public_key()
    assert len(request.public_key_der) == 294
    with pytest.raises(KeyReleaseError):
        request.open(envelope(DEK, public_key))
    own = request._private_key.public_key()
    assert request.open(envelope(DEK, own)) == DEK
    for size in (0, 16, 31, 33, 64):
        with pytest.raises(KeyReleaseError) as caught:
            request.open(envelope(bytes(size), own))
        assert str(caught.value) == UNIFORM


@pytest.mark.parametrize(
    "blob",
    [
        BLOB + b"\x00",
        BLOB + BLOB,
        b"\x00" + BLOB,
        BLOB[:-2],
        BLOB[:-1],
        b"\x30\x80" * (MAX_ENVELOPE_BYTES // 2),
        b"\x24\x80" * (MAX_ENVELOPE_BYTES // 2),
        b"\x30\x84\xff\xff\xff\xff",
        bytes(MAX_ENVELOPE_BYTES + 1),
        asn1.ContentInfo({"content_type": "data", "content": b"x"}).dump(),
        build(recipients=0),
        build(recipients=2),
        build(version="v0"),
        build(originator_info={"certs": []}),
        build(unprotected_attrs=[]),
        build(recipient={"version": "v0"}),
        build(recipient={"rid": asn1.RecipientIdentifier("subject_key_identifier", SKI[:20])}),
        build(recipient={"rid": asn1.RecipientIdentifier("subject_key_identifier", bytes(32))}),
        build(
            recipient={
                "rid": asn1.RecipientIdentifier(
                    "issuer_and_serial_number", {"issuer": asn1.Name.build({}), "serial_number": 1}
                )
            }
        ),
        build(recipient={"encrypted_key": b""}),
        build(recipient={"encrypted_key": bytes(256)}),
        build(recipient={"encrypted_key": b"\xff" * 256}),
        build(recipient={"key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"}}),
        build(oaep=OAEP_SHA1, oaep_hash=hashes.SHA1()),
        build(oaep={**OAEP, "hash_algorithm": {"algorithm": "sha1"}}),
        build(oaep={**OAEP, "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": {"algorithm": "sha1"}}}),
        build(oaep={**OAEP, "p_source_algorithm": {"algorithm": "p_specified", "parameters": b"label"}}),
        build(cek=bytes(16)),
        build(cek=b""),
        build(cek=b"\x01" * 32),
        build(content={"content_type": "signed_data"}),
        build(content={"content_encryption_algorithm": {"algorithm": "aes128_cbc", "parameters": bytes(16)}}),
        build(content={"content_encryption_algorithm": {"algorithm": "aes256_cbc", "parameters": bytes(12)}}),
        build(content={"encrypted_content": None}),
        build(content={"encrypted_content": b""}),
        build(content={"encrypted_content": bytes(17)}),
        build(padded=DEK + bytes(16)),
        build(padded=DEK + b"\x11" * 16),
        build(padded=DEK + b"\x01" * 15 + b"\x02"),
    ],
)
def test_everything_wrong_is_the_same_error(blob: bytes) -> None:
    error = refusal(blob)
    assert (str(error), error.code) == (UNIFORM, "key_release.envelope")


def test_someone_elses_key_and_swapped_identifier() -> None:
    assert str(refusal(BLOB, OTHER_KEY)) == UNIFORM
    other = OTHER_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert str(refusal(BLOB.replace(SKI, hashlib.sha256(other).digest()), OTHER_KEY)) == UNIFORM


@given(st.binary(max_size=600))
def test_any_bytes(blob: bytes) -> None:
    refusal(blob)


@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    mutated = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        operation = data.draw(st.sampled_from(["set", "insert", "delete", "truncate"]))
        if operation == "set":
            mutated[position] = data.draw(st.integers(0, 255))
        elif operation == "insert":
            mutated[position:position] = data.draw(st.binary(min_size=1, max_size=8))
        elif operation == "delete":
            del mutated[position : position + data.draw(st.integers(1, 8))]
        else:
            del mutated[position + 1 :]
        if not mutated:
            break
    try:
        plaintext = open_envelope(bytes(mutated), KEY)
    except KeyReleaseError as error:
        assert str(error) == UNIFORM  # noqa: PT017
    else:
        # CMS is not authenticated: what still opens was changed in ways its padding cannot show.
        assert len(plaintext) < len(DEK) + 16


def test_random_keys_never_pass_the_padding() -> None:
    blob = bytearray(BLOB)
    blob[200] ^= 1
    for _ in range(600):
        blob[201:203] = os.urandom(2)
        assert str(refusal(bytes(blob))) == UNIFORM
