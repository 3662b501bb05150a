from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from eif import (
    APPLICATION,
    BOOT,
    CMDLINE,
    CMDLINE_TEXT,
    KERNEL,
    KERNEL_BYTES,
    METADATA,
    RAMDISK,
    Signer,
    certificate_pem,
    forge,
)
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import image
from ephemeralml.errors import ImageError
from ephemeralml.image import pcrs, pieces


def _extended(content: bytes) -> str:
    return hashlib.sha384(bytes(48) + hashlib.sha384(content).digest()).hexdigest()


@given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=29))
def test_registers_cover_what_the_specification_says(kernel: bytes, cmdline: bytes, ramdisks: list[bytes]) -> None:
    cmdline = cmdline.replace(b"\0", b" ")
    expected = {
        "PCR0": _extended(kernel + cmdline + b"".join(ramdisks)),
        "PCR1": _extended(kernel + cmdline + b"".join(ramdisks[:1])),
        "PCR2": _extended(b"".join(ramdisks[1:])),
    }
    assert image.measure(kernel=kernel, cmdline=cmdline, ramdisks=ramdisks) == expected
    sections = [(KERNEL, kernel), (CMDLINE, cmdline), (METADATA, b"{}"), *((RAMDISK, item) for item in ramdisks)]
    assert image.read(forge(sections)).pcrs == expected


def test_registers_follow_the_order_of_the_file() -> None:
    sections = [(METADATA, b"{}"), (KERNEL, b"k"), (RAMDISK, b"r"), (CMDLINE, b"c"), (RAMDISK, b"s")]
    assert image.read(forge(sections)).pcrs == {
        "PCR0": _extended(b"krcs"),
        "PCR1": _extended(b"krc"),
        "PCR2": _extended(b"s"),
    }


def test_what_registers_cannot_tell() -> None:
    """The platform's limit, as the docs say it: the same bytes, cut elsewhere."""
    whole = image.measure(kernel=b"kernel", cmdline="quiet", ramdisks=[b"one", b"two", b"three"])
    assert whole == image.measure(kernel=b"kernelqu", cmdline="ieto", ramdisks=[b"ne", b"twot", b"hree"])
    assert (
        whole["PCR0"] == image.measure(kernel=b"kernel", cmdline="quiet", ramdisks=[b"onet", b"wo", b"three"])["PCR0"]
    )
    assert whole != image.measure(kernel=b"kernel", cmdline="quiet", ramdisks=[b"onet", b"wo", b"three"])


def test_pcr8_is_the_certificate_whatever_stands_around_it(signer: Signer) -> None:
    der = x509.load_pem_x509_certificate(signer.certificate).public_bytes(Encoding.DER)
    for pem in (signer.certificate, b"text before\n" + signer.certificate + b"\n" + signer.certificate):
        found = image.measure(kernel=b"k", cmdline="", ramdisks=[], signing_cert=pem)
        assert found["PCR8"] == _extended(der)


def test_pieces_are_bytes_or_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 7)
    expected = image.measure(kernel=KERNEL_BYTES, cmdline=CMDLINE_TEXT, ramdisks=[BOOT, APPLICATION])
    for name, content in (("kernel", KERNEL_BYTES), ("boot", BOOT), ("application", APPLICATION)):
        (tmp_path / name).write_bytes(content)
    found = image.measure(
        kernel=tmp_path / "kernel",
        cmdline=CMDLINE_TEXT.encode(),
        ramdisks=[str(tmp_path / "boot"), tmp_path / "application"],
    )
    assert found == expected


def test_other_hashes_only_on_request() -> None:
    algorithms: dict[pcrs.Algorithm, int] = {"sha256": 64, "sha384": 96, "sha512": 128}
    for algorithm, digits in algorithms.items():
        found = image.measure(kernel=b"k", cmdline="", ramdisks=[], algorithm=algorithm)
        assert {len(value) for value in found.values()} == {digits}


@pytest.mark.parametrize("cmdline", ["a\0b", b"\0", "\ud800", "x" * ((64 << 10) + 1)])
def test_a_command_line_that_cannot_be_one(cmdline: str | bytes) -> None:
    with pytest.raises(ImageError) as caught:
        image.measure(kernel=b"", cmdline=cmdline, ramdisks=[])
    assert caught.value.code == "image.cmdline"


def test_more_ramdisks_than_an_image_holds(signer: Signer) -> None:
    image.measure(kernel=b"", cmdline="", ramdisks=[b""] * 29)
    with pytest.raises(ImageError) as caught:
        image.measure(kernel=b"", cmdline="", ramdisks=[b""] * 30)
    assert caught.value.code == "image.too_many"
    image.measure(kernel=b"", cmdline="", ramdisks=[b""] * 28, signing_cert=signer.certificate)
    with pytest.raises(ImageError):
        image.measure(kernel=b"", cmdline="", ramdisks=[b""] * 29, signing_cert=signer.certificate)


def test_a_certificate_that_is_none() -> None:
    other = certificate_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    for pem in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", other, bytes(40_000)):
        with pytest.raises(ImageError) as caught:
            image.measure(kernel=b"", cmdline="", ramdisks=[], signing_cert=pem)
        assert caught.value.code == "image.certificate"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        image.measure(kernel=tmp_path / "nothing", cmdline="", ramdisks=[])
    assert caught.value.filename == str(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError) as folder:
        image.measure(kernel=b"", cmdline="", ramdisks=[tmp_path])
    assert folder.value.filename == str(tmp_path)
