"""Images and registers by AWS's own builder, and our builder's images of the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import cbor2
import pytest

from ephemeralml import image
from ephemeralml.codec import cose
from ephemeralml.image import pcrs

Case = dict[str, Any]
_FLAGS: dict[str, Literal["sha256", "sha512"]] = {"--sha256": "sha256", "--sha512": "sha512"}


@pytest.fixture(scope="module")
def folder(vectors: Path) -> Path:
    return vectors / "eif"


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    listed: list[Case] = json.loads((folder / "vectors.json").read_text())["cases"]
    made = [case for case in listed if case["rc"] == 0]
    assert made
    return made


def _inputs(folder: Path, case: Case) -> dict[str, Any]:
    return {
        "kernel": folder / case["kernel"],
        "cmdline": case["cmdline"],
        "ramdisks": [folder / name for name in case["ramdisks"]],
    }


def _option(folder: Path, case: Case, name: str) -> Path | None:
    arguments = case["args"]
    return folder / arguments[arguments.index(name) + 1] if name in arguments else None


def _algorithm(case: Case) -> pcrs.Algorithm:
    return next((_FLAGS[argument] for argument in case["args"] if argument in _FLAGS), "sha384")


def _expected(case: Case) -> dict[str, str]:
    return {name: value for name, value in case["output"].items() if name.startswith("PCR")}


def test_the_registers_of_pieces_are_those_of_aws(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        certificate = _option(folder, case, "--signing-certificate")
        found = image.measure(**_inputs(folder, case), signing_cert=certificate, algorithm=_algorithm(case))
        assert found == _expected(case), case["name"]


def test_the_registers_of_images_are_those_of_aws(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        assert image.measure_eif(folder / case["eif"], algorithm=_algorithm(case)) == _expected(case), case["name"]


def test_the_hash_is_no_part_of_an_image(folder: Path, cases: list[Case]) -> None:
    """However AWS's builder measured it, an enclave measures with SHA-384."""
    for case in cases:
        found = image.measure_eif(folder / case["eif"])
        assert {len(value) for value in found.values()} == {96}
        assert found["PCR0"] == image.measure(**_inputs(folder, case))["PCR0"]


def test_our_images_are_aws_images_byte_for_byte(
    folder: Path, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the same build time, and, where signed, AWS's own signature instead of another random one."""
    for case in cases:
        theirs = (folder / case["eif"]).read_bytes()
        parsed = image.read(theirs)
        assert parsed.metadata is not None
        about = parsed.metadata["BuildMetadata"]
        custom = _option(folder, case, "--metadata")
        metadata = image.Metadata(
            image_name=parsed.metadata["ImageName"],
            # v0.2.0 of AWS's builder writes the name here as well.
            image_version=parsed.metadata["ImageVersion"],
            build_time=about["BuildTime"],
            build_tool=about["BuildTool"],
            build_tool_version=about["BuildToolVersion"],
            operating_system=about["OperatingSystem"],
            kernel_version=about["KernelVersion"],
            custom=None if custom is None else json.loads(custom.read_text()),
        )
        if parsed.signature is not None:
            section = cbor2.loads(theirs[parsed.sections[-1].offset + 12 :])
            monkeypatch.setattr(cose, "sign", Mock(return_value=bytes(section[0]["signature"])))
        image.build(
            tmp_path / "ours.eif",
            **_inputs(folder, case),
            metadata=metadata,
            signing_cert=_option(folder, case, "--signing-certificate"),
            signing_key=_option(folder, case, "--private-key"),
        )
        monkeypatch.undo()
        assert (tmp_path / "ours.eif").read_bytes() == theirs, case["name"]


def test_our_signature_says_what_aws_signature_says(folder: Path, cases: list[Case], tmp_path: Path) -> None:
    case = next(case for case in cases if "PCR8" in case["output"])
    image.build(
        tmp_path / "ours.eif",
        **_inputs(folder, case),
        metadata=image.Metadata(),
        signing_cert=folder / "sign.crt",
        signing_key=folder / "sign.key",
    )
    ours, theirs = image.read(tmp_path / "ours.eif").signature, image.read(folder / case["eif"]).signature
    assert ours is not None
    assert theirs is not None
    assert ours.certificate.pem == theirs.certificate.pem
    assert (ours.message.protected, ours.message.unprotected) == (theirs.message.protected, theirs.message.unprotected)
    assert ours.message.payload == theirs.message.payload
    assert image.measure_eif(tmp_path / "ours.eif") == _expected(case)
