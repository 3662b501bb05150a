"""CiphertextForRecipient in the very shape AWS KMS writes: CMS EnvelopedData (RFC 5652 section 6.1) in BER.

Indefinite lengths on ContentInfo, its content, EnvelopedData, EncryptedContentInfo and the encrypted content, which is
a run of OCTET STRINGs of 1000 bytes; definite lengths everywhere else. Compared with recorded answers tag by tag.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHUNK_BYTES: Final = 1000

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OCTET_STRING: Final = 0x04
_EXPLICIT_0: Final = 0xA0
_IMPLICIT_0: Final = 0x80
_END: Final = b"\x00\x00"

_VERSION_2: Final = bytes.fromhex("020102")
_ENVELOPED_DATA: Final = bytes.fromhex("06092a864886f70d010703")
_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_AES_256_CBC: Final = bytes.fromhex("060960864801650304012a")
# RSAES-OAEP (RFC 4055 section 4.1) with SHA-256 and MGF1 with SHA-256 spelled out, empty label by default.
_OAEP_SHA256: Final = bytes.fromhex(
    "303c06092a864886f70d010107302f"
    "a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500"
)


def envelope(plaintext: bytes, public_key: RSAPublicKey) -> bytes:
    """Encrypt `plaintext` to `public_key` under a fresh AES-256 key."""
    key, iv = os.urandom(32), os.urandom(16)
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES256(key), CBC(iv)).encryptor()
    encrypted = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    oaep = rsa_padding.OAEP(mgf=rsa_padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    recipient = _definite(
        _SEQUENCE,
        _VERSION_2,
        _definite(_IMPLICIT_0, hashlib.sha256(spki).digest()),
        _OAEP_SHA256,
        _definite(_OCTET_STRING, public_key.encrypt(key, oaep)),
    )
    chunks = (encrypted[start : start + CHUNK_BYTES] for start in range(0, len(encrypted), CHUNK_BYTES))
    content = _indefinite(
        _SEQUENCE,
        _DATA,
        _definite(_SEQUENCE, _AES_256_CBC, _definite(_OCTET_STRING, iv)),
        _indefinite(_EXPLICIT_0, *(_definite(_OCTET_STRING, chunk) for chunk in chunks)),
    )
    enveloped_data = _indefinite(_SEQUENCE, _VERSION_2, _definite(_SET, recipient), content)
    return _indefinite(_SEQUENCE, _ENVELOPED_DATA, _indefinite(_EXPLICIT_0, enveloped_data))


def _definite(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + body


def _indefinite(tag: int, *contents: bytes) -> bytes:
    return bytes([tag, 0x80]) + b"".join(contents) + _END
