from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from eif import PLAIN, SIGNATURE, Signer, certificate_pem, forge, make_signer
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import image
from ephemeralml.codec import cbor, cose
from ephemeralml.errors import ImageError
from ephemeralml.image.certificate import SigningCertificate
from ephemeralml.image.signature import ImageSigner, Signature

PCR0 = bytes.fromhex(image.read(forge()).pcrs["PCR0"])
HEADERS = {"secp256r1": b"\xa1\x01\x26", "secp384r1": b"\xa1\x01\x38\x22", "secp521r1": b"\xa1\x01\x38\x23"}


def _payload(pcr0: bytes = PCR0, index: int = 0) -> bytes:
    return cbor2.dumps({"register_index": index, "register_value": list(pcr0)})


def _section(signer: Signer, *, payload: bytes | None = None, key: Any = None, **changes: object) -> bytes:
    protected = {cose.ALG: changes.pop("algorithm", cose.ES384)}
    signed = cose.sign(
        _payload() if payload is None else payload,
        key or signer.key,
        protected=protected,  # type: ignore[arg-type]
        tagged=bool(changes.pop("tagged", False)),
    )
    pair = {"signing_certificate": list(signer.certificate), "signature": list(signed), **changes}
    return cbor2.dumps([pair])


def _check(section: bytes) -> None:
    image.read(forge([*PLAIN, (SIGNATURE, section)])).check()


def _refused(section: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        _check(section)
    return caught.value


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_each_curve_signs_in_its_algorithm(curve: ec.EllipticCurve) -> None:
    signer = make_signer(curve)
    section = ImageSigner.load(certificate=signer.certificate, key=signer.private).sign(PCR0)
    _check(section)
    message = Signature.parse(section).message
    assert message.protected == HEADERS[curve.name]
    assert message.payload == _payload()
    # serde's spelling: declared order, bytes as arrays.
    assert section.startswith(b"\x81\xa2\x73signing_certificate\x99")
    assert list(cbor2.loads(section)[0]) == ["signing_certificate", "signature"]


def test_a_good_section_made_by_hand(signer: Signer) -> None:
    _check(_section(signer))


def test_signatures_of_other_things(signer: Signer) -> None:
    other = make_signer()
    for section, words in (
        (_section(signer, payload=_payload(bytes(48))), "another image"),
        (_section(signer, payload=_payload(index=1)), "another image"),
        (_section(signer, payload=b""), "another image"),
        (_section(signer, key=other.key), "not by the key"),
        (_section(signer, signing_certificate=list(other.certificate)), "not by the key"),
        (_section(signer, algorithm=cose.ES256), "algorithm"),
        (_section(signer, algorithm=cose.EDDSA), "algorithm"),
    ):
        error = _refused(section)
        assert error.code == "image.signature"
        assert words in str(error)


def test_an_unprotected_header_is_refused(signer: Signer) -> None:
    header = cbor.encode({cose.ALG: cose.ES384})
    signed = cose.parse(
        cose.sign(_payload(), signer.key, protected={cose.ALG: cose.ES384}, tagged=False), tagged=False, limit=4096
    )
    parts = cbor2.dumps([header, {4: b"key"}, signed.payload, signed.signature])
    assert "algorithm" in str(_refused(_section(signer, signature=list(parts))))


@pytest.mark.parametrize(
    "section",
    [
        b"",
        b"\xff",
        cbor2.dumps([]),
        cbor2.dumps({}),
        cbor2.dumps([[]]),
        cbor2.dumps([{}]),
        cbor2.dumps([{"signing_certificate": [], "signature": []}]),
        cbor2.dumps([{"signing_certificate": [], "signature": [256]}]),
        cbor2.dumps([{"signing_certificate": [], "signature": [True]}]),
        cbor2.dumps([{"signing_certificate": [], "signature": b"bytes"}]),
        cbor2.dumps([{"signing_certificate": [], "signature": [], "more": []}]),
        b"\x9a\xff\xff\xff\xff",
        b"\x81" * 200,
    ],
)
def test_sections_that_are_none(section: bytes) -> None:
    assert _refused(section).code == "image.signature"


def test_more_than_one_signature_is_refused(signer: Signer) -> None:
    pair = cbor2.loads(_section(signer))[0]
    assert _refused(cbor2.dumps([pair, pair])).code == "image.signature"


def test_a_tagged_signature_is_refused(signer: Signer) -> None:
    assert _refused(_section(signer, tagged=True)).code == "image.signature"


def test_certificates_that_are_none(signer: Signer) -> None:
    rsa_pem = certificate_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    for pem in (b"", b"text", rsa_pem, signer.certificate[:-40]):
        assert _refused(_section(signer, signing_certificate=list(pem))).code == "image.certificate"


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_damaged_certificates(signer: Signer, at: int, byte: int) -> None:
    pem = bytearray(signer.certificate)
    pem[at % len(pem)] = byte
    with suppress(ImageError):
        assert SigningCertificate.parse(bytes(pem)).algorithm == cose.ES384


def test_a_key_of_another_certificate_signs_nothing(signer: Signer, tmp_path: Path) -> None:
    for key in (make_signer().private, b"", b"text", bytes(20_000)):
        with pytest.raises(ImageError) as caught:
            ImageSigner.load(certificate=signer.certificate, key=key)
        assert caught.value.code == "image.signing_key"
    locked = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.pem").write_bytes(locked)
    with pytest.raises(ImageError) as caught:
        ImageSigner.load(certificate=signer.certificate, key=tmp_path / "locked.pem")
    assert caught.value.code == "image.signing_key"


def test_a_certificate_file_too_large_for_the_section(signer: Signer) -> None:
    padded = b"x" * 17_000 + b"\n" + signer.certificate
    with pytest.raises(ImageError) as caught:
        ImageSigner.load(certificate=padded, key=signer.private).sign(PCR0)
    assert caught.value.code == "image.certificate"


def test_a_long_certificate_file_of_the_size_allowed(signer: Signer) -> None:
    """More array items than CBOR of other formats may have."""
    padded = b"x" * 12_000 + b"\n" + signer.certificate
    _check(ImageSigner.load(certificate=padded, key=signer.private).sign(PCR0))
