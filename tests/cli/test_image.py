"""`ephemeralml image`: what it prints, what it leaves behind, and its exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from eif import APPLICATION, BOOT, CMDLINE_TEXT, KERNEL_BYTES, METADATA, PLAIN, Signer, forge, make_signer

from ephemeralml import image
from ephemeralml.attestation import Policy

from .conftest import Run


@pytest.fixture(scope="module")
def signer() -> Signer:
    return make_signer()


@pytest.fixture
def folder(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs of an image."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for name, content in (
        ("bzImage", KERNEL_BYTES),
        ("boot.cpio", BOOT),
        ("app.cpio", APPLICATION),
        ("custom.json", b'{"commit": "abc"}'),
        ("signer.pem", signer.certificate),
        ("signer.key", signer.private),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def build(run: Run, folder: Path) -> Callable[..., tuple[int, str, str]]:
    def call(out: str, *options: object) -> tuple[int, str, str]:
        inputs = ("--kernel", folder / "bzImage", "--cmdline", CMDLINE_TEXT, "--ramdisk", folder / "boot.cpio")
        rest = ("--ramdisk", folder / "app.cpio", "--out", folder / out)
        return run("image", "build", *inputs, *rest, *options)

    return call


def test_from_pieces_to_a_policy(run: Run, build: Run, folder: Path, signer: Signer) -> None:
    signing = ("--private-key", folder / "signer.key", "--signing-certificate", folder / "signer.pem")
    status, out, _ = build("a.eif", *signing)
    assert status == 0
    expected = image.measure(
        kernel=KERNEL_BYTES, cmdline=CMDLINE_TEXT, ramdisks=[BOOT, APPLICATION], signing_cert=signer.certificate
    )
    assert all(f"{name}  {value}\n" in out for name, value in expected.items())

    status, out, _ = run("image", "measure", folder / "a.eif", "--json")
    assert status == 0
    assert json.loads(out) == expected
    (folder / "measurements.json").write_text(out)
    made = ("--measurements", folder / "measurements.json", "--out", folder / "policy.json")
    assert run("policy", "create", *made)[0] == 0
    (allowed,) = Policy.load(folder / "policy.json").measurements
    assert {f"PCR{index}": value.hex() for index, value in allowed.registers.items()} == expected

    status, out, _ = run("image", "measure", folder / "a.eif")
    assert status == 0
    assert out.splitlines() == [f"{name}  {value}" for name, value in expected.items()]


def test_builds_are_reproducible_and_carry_no_time_of_their_own(
    build: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("--name", "img", "--version", "1.2", "--metadata", folder / "custom.json")
    for out in ("a.eif", "b.eif"):
        assert build(out, *names)[0] == 0
    assert (folder / "a.eif").read_bytes() == (folder / "b.eif").read_bytes()
    metadata = image.read(folder / "a.eif").metadata
    assert metadata is not None
    assert (metadata["ImageName"], metadata["ImageVersion"]) == ("img", "1.2")
    assert metadata["CustomMetadata"] == {"commit": "abc"}
    assert metadata["BuildMetadata"]["BuildTime"] == "Unknown"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    assert build("c.eif")[0] == 0
    metadata = image.read(folder / "c.eif").metadata
    assert metadata is not None
    assert metadata["ImageName"] == "bzImage"
    assert metadata["BuildMetadata"]["BuildTime"] == "2025-06-15T15:06:40+00:00"


@pytest.mark.parametrize("epoch", ["", "now", "1.5", "9" * 30])
def test_a_source_date_epoch_that_is_none(
    build: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, epoch: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    status, _, err = build("a.eif")
    assert status == 2
    assert "SOURCE_DATE_EPOCH" in err
    assert not (folder / "a.eif").exists()


def test_a_build_that_cannot_be_leaves_nothing(build: Run, folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    for status, words, options in (
        (2, "go together", ("--private-key", folder / "signer.key")),
        (1, "image.signing_key", ("--private-key", folder / "bzImage", "--signing-certificate", folder / "signer.pem")),
        (1, "image.certificate", ("--private-key", folder / "signer.key", "--signing-certificate", folder / "bzImage")),
        (1, "image.metadata", ("--metadata", folder / "bzImage")),
        (1, "nothing.cpio", ("--ramdisk", folder / "nothing.cpio")),
    ):
        found, _, err = build("a.eif", *options)
        assert found == status
        assert words in err
    assert {path.name for path in folder.iterdir()} == before


def test_a_damaged_image_is_described_and_not_measured(run: Run, build: Run, folder: Path) -> None:
    path = folder / "a.eif"
    build("a.eif", "--private-key", folder / "signer.key", "--signing-certificate", folder / "signer.pem")
    data = bytearray(path.read_bytes())
    status, out, _ = run("image", "describe", path)
    assert status == 0
    assert "WRONG" not in out
    assert "CN=image signer" in out
    data[600] ^= 1
    path.write_bytes(data)
    status, out, _ = run("image", "describe", path)
    assert status == 0
    assert out.count("WRONG") == 2
    status, out, _ = run("image", "describe", path, "--json")
    content = json.loads(out)
    assert not content["crc"]["ok"]
    assert not content["signature"]["ok"]
    for options in ((), ("--json",)):
        status, out, err = run("image", "measure", path, *options)
        assert (status, out) == (1, "")
        assert "image.crc" in err


def test_what_is_no_image(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "no.eif"
    path.write_bytes(b"no image" * 100)
    for command in ("measure", "describe"):
        status, out, err = run("image", command, path)
        assert (status, out) == (1, "")
        assert "image.header" in err
        status, _, err = run("image", command, tmp_path / "nothing")
        assert status == 1
        assert "nothing" in err


def test_text_in_an_image_does_not_command_the_terminal(run: Run, tmp_path: Path) -> None:
    evil = "\x1b[2J\u202e"
    named = json.dumps({evil: evil}, ensure_ascii=False).encode()
    cmdline = (2, evil.encode() + b"\xff")
    (tmp_path / "a.eif").write_bytes(forge([PLAIN[0], cmdline, (METADATA, named)]))
    (tmp_path / "b.eif").write_bytes(forge())
    for arguments in (("describe", "a.eif"), ("describe", "a.eif", "--json"), ("diff", "a.eif", "b.eif")):
        names = (tmp_path / item if item.endswith(".eif") else item for item in arguments)
        _, out, _ = run("image", *names)
        assert "\\u001b[2J\\u202e" in out
        assert out.isascii()
        assert "\x1b" not in out


def test_diff_has_three_ends(run: Run, build: Run, folder: Path) -> None:
    build("a.eif")
    build("b.eif")
    build("c.eif", "--version", "2.0", "--ramdisk", folder / "custom.json")
    status, out, _ = run("image", "diff", folder / "a.eif", folder / "b.eif")
    assert (status, out) == (0, "equal\n")
    status, out, _ = run("image", "diff", folder / "a.eif", folder / "c.eif")
    assert status == 1
    for name in ("metadata.ImageVersion", "ramdisk 3", "PCR0", "PCR2"):
        assert f"\n{name}\n" in out
    assert "PCR1" not in out
    assert f"{folder / 'a.eif'}: missing" in out
    damaged = bytearray((folder / "b.eif").read_bytes())
    damaged[-1] ^= 1
    (folder / "b.eif").write_bytes(damaged)
    for other in ("b.eif", "bzImage", "nothing"):
        status, out, err = run("image", "diff", folder / "a.eif", folder / other)
        assert (status, out) == (2, "")
        assert other in err
    assert run("image", "diff", folder / "a.eif")[0] == 2
