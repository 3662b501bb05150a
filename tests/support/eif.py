"""Enclave images byte by byte, from the specification and without the code under test, and keys to sign them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5
KERNEL_BYTES = bytes(range(256)) + b"kernel"
CMDLINE_TEXT = "console=ttyS0 panic=30"
BOOT, APPLICATION = b"boot ramdisk" * 5, b"application" * 7
PLAIN = [
    (KERNEL, KERNEL_BYTES),
    (CMDLINE, CMDLINE_TEXT.encode()),
    (METADATA, b'{"ImageName":"test"}'),
    (RAMDISK, BOOT),
    (RAMDISK, APPLICATION),
]
NOT_BEFORE, NOT_AFTER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


def forge(
    sections: Sequence[tuple[int, bytes]] = PLAIN,
    *,
    magic: bytes = b".eif",
    version: int = 4,
    flags: int = 0,
    reserved: int = 0,
    unused: int = 0,
    count: int | None = None,
    offsets: dict[int, int] | None = None,
    sizes: dict[int, int] | None = None,
    own_sizes: dict[int, int] | None = None,
    section_flags: int = 0,
    tail: bytes = b"",
) -> bytes:
    """An image with a right CRC; the tables by index and the other fields may lie."""
    table, lengths, body = [0] * 32, [0] * 32, b""
    for index, (kind, content) in enumerate(sections):
        if index < 32:
            table[index], lengths[index] = 548 + len(body), len(content)
        body += struct.pack(">HHQ", kind, section_flags, (own_sizes or {}).get(index, len(content))) + content
    for target, changes in ((table, offsets), (lengths, sizes)):
        for index, value in (changes or {}).items():
            target[index] = value
    counted = len(sections) if count is None else count
    head = struct.pack(">4sHHQQHH", magic, version, flags, 1 << 30, 2, reserved, counted)
    head += struct.pack(">32Q32QI", *table, *lengths, unused)
    return reseal(head + bytes(4) + body + tail)


def reseal(image: bytes) -> bytes:
    """The same image with a right CRC."""
    return image[:544] + struct.pack(">I", zlib.crc32(image[548:], zlib.crc32(image[:544]))) + image[548:]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs an image: key, and certificate and key in PEM."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    private: bytes


def make_signer(curve: ec.EllipticCurve | None = None) -> Signer:
    key = ec.generate_private_key(curve or ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Signer(key, certificate_pem(key), private)


def certificate_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, name: str = "image signer") -> bytes:
    """Self-signed, valid from 2020 to 2039."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .sign(key, hashes.SHA384())
    )
    return certificate.public_bytes(Encoding.PEM)
