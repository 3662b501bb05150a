"""Key release, the enclave's half: a fresh RSA key for the attestation document, and KMS's answer opened with it.

The answer, CiphertextForRecipient, is a CMS EnvelopedData (RFC 5652 section 6.1) in BER. It is matched element by
element against the one form KMS writes: general ASN.1 libraries skip elements they do not expect. CMS has no
authentication and the host could have made the answer itself: the key counts only once it opens the owner's package.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml.errors import KeyReleaseError

MAX_ENVELOPE_BYTES: Final = 8192

_DEK_BYTES: Final = 32
_AES_KEY_BYTES: Final = 32
_AES_BLOCK_BYTES: Final = 16
_SKI_BYTES: Final = 32

# A BER element: its identifier octet, and its contents, or its elements when the identifier says constructed (0x20).
_Element: TypeAlias = "tuple[int, bytes | list[_Element]]"

_MAX_DEPTH: Final = 10
_ENVELOPED_DATA: Final = bytes.fromhex("2a864886f70d010703")
_DATA: Final = bytes.fromhex("2a864886f70d010701")
_AES256_CBC: Final = bytes.fromhex("60864801650304012a")
_RSAES_OAEP: Final = bytes.fromhex("2a864886f70d010107")
_SHA256: Final[_Element] = (0x30, [(0x06, bytes.fromhex("608648016503040201")), (0x05, b"")])
_MGF1_SHA256: Final[_Element] = (0x30, [(0x06, bytes.fromhex("2a864886f70d010108")), _SHA256])
_OAEP_SHA256: Final[list[_Element]] = [(0xA0, [_SHA256]), (0xA1, [_MGF1_SHA256])]

_OAEP: Final = rsa_padding.OAEP(mgf=rsa_padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parts of a CiphertextForRecipient: one RSAES-OAEP recipient, content in AES-256-CBC with PKCS #7 padding.

    `ski` is the recipient's 32-byte subjectKeyIdentifier; `oaep_hash` names the hash of OAEP and of its MGF1.
    """

    ski: bytes
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes
    oaep_hash: str


class KeyRequest:
    """One release of one key: a fresh RSA-2048 key, its public half for the document, its private half for the answer.

    Making it takes some 50 ms without the interpreter's lock: ``executor.submit(KeyRequest)`` hides them.
    """

    __slots__ = ("_private_key",)

    def __init__(self) -> None:
        self._private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo in DER, for the attestation document's ``public_key``."""
        return _spki(self._private_key)

    def open(self, ciphertext_for_recipient: bytes) -> bytes:
        """The 32-byte data key in KMS's answer. Raises `KeyReleaseError` as `open_envelope` does."""
        dek = open_envelope(ciphertext_for_recipient, self._private_key)
        if len(dek) != _DEK_BYTES:
            raise _refused()
        return dek


def open_envelope(blob: bytes, private_key: rsa.RSAPrivateKey) -> bytes:
    """The plaintext of a CiphertextForRecipient made for `private_key`.

    Raises `KeyReleaseError` key_release.envelope, one and the same for whatever is wrong with it.
    """
    envelope = parse_envelope(blob)
    own = bytes_eq(envelope.ski, hashlib.sha256(_spki(private_key)).digest())
    if not own or envelope.oaep_hash != "sha256":
        raise _refused()
    # Go on with a random key where none unwraps, so that both failures look alike (RFC 3218 section 2.3.2).
    substitute = os.urandom(_AES_KEY_BYTES)
    try:
        key = private_key.decrypt(envelope.encrypted_key, _OAEP)
    except ValueError:
        key = b""
    unwrapped = len(key) == _AES_KEY_BYTES
    decryptor = Cipher(AES256(key if unwrapped else substitute), CBC(envelope.iv)).decryptor()
    unpadder = PKCS7(8 * _AES_BLOCK_BYTES).unpadder()
    padded = decryptor.update(envelope.ciphertext) + decryptor.finalize()
    try:
        plaintext = unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        unwrapped = False
    if not unwrapped:
        raise _refused()
    return plaintext


def parse_envelope(blob: bytes) -> Envelope:
    """Read the structure, judging neither the OAEP hash nor the recipient. Raises what `open_envelope` does."""
    if len(blob) > MAX_ENVELOPE_BYTES:
        raise _refused()
    message, end = _element(blob, 0, len(blob), depth=0)
    match message:
        case (
            0x30,
            [(0x06, content_type), (0xA0, [(0x30, [(0x02, b"\x02"), (0x31, [(0x30, recipient)]), (0x30, content)])])],
        ) if content_type == _ENVELOPED_DATA and end == len(blob):
            pass
        case _:
            raise _refused()
    match recipient:
        case [
            (0x02, b"\x02"),
            (0x80, bytes(ski)),
            (0x30, [(0x06, transport), (0x30, list(parameters))]),
            (0x04, bytes(encrypted_key)),
        ] if transport == _RSAES_OAEP and len(ski) == _SKI_BYTES:
            pass
        case _:
            raise _refused()
    match content:
        case [(0x06, data), (0x30, [(0x06, cipher), (0x04, bytes(iv))]), encrypted] if (data, cipher, len(iv)) == (
            _DATA,
            _AES256_CBC,
            _AES_BLOCK_BYTES,
        ):
            ciphertext = _encrypted_content(encrypted)
        case _:
            raise _refused()
    return Envelope(ski, encrypted_key, iv, ciphertext, _oaep_hash(parameters))


def _encrypted_content(element: _Element) -> bytes:
    """The [0] IMPLICIT OCTET STRING, whole or in chunks."""
    match element:
        case (0x80, bytes(ciphertext)):
            pass
        case (0xA0, list(chunks)) if all(tag == 0x04 for tag, _ in chunks):
            ciphertext = b"".join(chunk for _, chunk in chunks if isinstance(chunk, bytes))
        case _:
            raise _refused()
    if not ciphertext or len(ciphertext) % _AES_BLOCK_BYTES:
        raise _refused()
    return ciphertext


def _oaep_hash(parameters: list[_Element]) -> str:
    if parameters == _OAEP_SHA256:
        return "sha256"
    # All defaults: SHA-1, MGF1 with SHA-1, no label (RFC 4055 section 4.1).
    if not parameters:
        return "sha1"
    raise _refused()


def _element(data: bytes, position: int, end: int, *, depth: int) -> tuple[_Element, int]:
    """The BER element (X.690 section 8.1) at `position` and where it ends, which is not after `end`."""
    if end - position < 2 or depth > _MAX_DEPTH:
        raise _refused()
    tag, length = data[position], data[position + 1]
    position += 2
    indefinite = length == 0x80
    if length > 0x80:
        width = length & 0x7F
        length = int.from_bytes(data[position : position + width])
        position += width
    stop = end if indefinite else position + length
    if stop > end or tag == 0:
        raise _refused()
    if not tag & 0x20:
        if indefinite:
            raise _refused()
        return (tag, data[position:stop]), stop
    children: list[_Element] = []
    while position < stop:
        if indefinite and data.startswith(b"\x00\x00", position, stop):
            return (tag, children), position + 2
        child, position = _element(data, position, stop, depth=depth + 1)
        children.append(child)
    if indefinite:
        raise _refused()
    return (tag, children), position


def _spki(private_key: rsa.RSAPrivateKey) -> bytes:
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refused() -> KeyReleaseError:
    return KeyReleaseError(
        "the key service's answer (CiphertextForRecipient) cannot be opened with this enclave's key: it was damaged or "
        "made for another request; ask for the key again",
        code="key_release.envelope",
    )
