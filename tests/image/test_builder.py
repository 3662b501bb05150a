from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from eif import APPLICATION, BOOT, CMDLINE, CMDLINE_TEXT, KERNEL, KERNEL_BYTES, METADATA, RAMDISK, Signer, forge
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import image
from ephemeralml.errors import ImageError
from ephemeralml.image import pieces

ABOUT = image.Metadata(image_name="test")


@given(st.binary(max_size=40), st.text(max_size=20), st.lists(st.binary(max_size=40), max_size=29))
def test_the_file_is_the_one_the_specification_describes(
    tmp_path_factory: pytest.TempPathFactory, kernel: bytes, cmdline: str, ramdisks: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "built.eif"
    cmdline = cmdline.replace("\0", " ").encode(errors="replace").decode()
    pcrs = image.build(path, kernel=kernel, cmdline=cmdline, ramdisks=ramdisks, metadata=ABOUT)
    sections = [(KERNEL, kernel), (CMDLINE, cmdline.encode()), (METADATA, ABOUT.to_bytes())]
    assert path.read_bytes() == forge([*sections, *((RAMDISK, item) for item in ramdisks)])
    assert pcrs == image.measure(kernel=kernel, cmdline=cmdline, ramdisks=ramdisks) == image.measure_eif(path)


def test_a_signed_image_is_measured_with_its_signer(signed_file: Path, signer: Signer) -> None:
    expected = image.measure(
        kernel=KERNEL_BYTES, cmdline=CMDLINE_TEXT, ramdisks=[BOOT, APPLICATION], signing_cert=signer.certificate
    )
    assert image.measure_eif(signed_file) == expected
    assert "PCR8" in expected


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernel").write_bytes(KERNEL_BYTES)
    inputs = {"cmdline": CMDLINE_TEXT, "ramdisks": [BOOT], "metadata": ABOUT}
    image.build(tmp_path / "large.eif", kernel=tmp_path / "kernel", **inputs)  # type: ignore[arg-type]
    for module in ("pieces", "builder", "reader"):
        monkeypatch.setattr(f"ephemeralml.image.{module}.BLOCK_BYTES", 5)
    image.build(tmp_path / "small.eif", kernel=tmp_path / "kernel", **inputs)  # type: ignore[arg-type]
    assert (tmp_path / "small.eif").read_bytes() == (tmp_path / "large.eif").read_bytes()
    image.read(tmp_path / "small.eif").check()


def test_memory_stays_at_a_few_blocks(tmp_path: Path) -> None:
    size = 24 * pieces.BLOCK_BYTES
    with (tmp_path / "kernel").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        image.build(tmp_path / "a.eif", kernel=tmp_path / "kernel", cmdline="", ramdisks=[b""], metadata=ABOUT)
        image.measure_eif(tmp_path / "a.eif")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "a.eif").stat().st_size > size
    assert peak < size // 4


def test_an_image_appears_whole_or_not_at_all(tmp_path: Path, signer: Signer) -> None:
    out = tmp_path / "out.eif"
    out.write_bytes(b"old")
    with pytest.raises(FileNotFoundError) as missing:
        image.build(out, kernel=KERNEL_BYTES, cmdline="", ramdisks=[tmp_path / "nothing"], metadata=ABOUT)
    assert missing.value.filename == str(tmp_path / "nothing")
    with pytest.raises(ImageError) as caught:
        image.build(
            out, kernel=b"", cmdline="", ramdisks=[], metadata=ABOUT,
            signing_cert=b"x" * 17_000 + b"\n" + signer.certificate, signing_key=signer.private,
        )  # fmt: skip
    assert caught.value.code == "image.certificate"
    assert [path.name for path in tmp_path.iterdir()] == ["out.eif"]
    assert out.read_bytes() == b"old"
    image.build(out, kernel=KERNEL_BYTES, cmdline="", ramdisks=[], metadata=ABOUT)
    image.read(out).check()
    assert [path.name for path in tmp_path.iterdir()] == ["out.eif"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "out.eif"
    with pytest.raises(FileNotFoundError) as caught:
        image.build(out, kernel=b"", cmdline="", ramdisks=[], metadata=ABOUT)
    assert caught.value.filename == str(out)


def test_an_input_that_fails_while_it_is_read_is_named(tmp_path: Path) -> None:
    """Reading a process's own memory from its start fails, and read(2) names no file."""
    with pytest.raises(OSError, match="error") as caught:
        image.build(tmp_path / "a.eif", kernel="/proc/self/mem", cmdline="", ramdisks=[], metadata=ABOUT)
    assert caught.value.filename == "/proc/self/mem"
    assert not list(tmp_path.iterdir())


def test_half_a_signer_is_refused(tmp_path: Path, signer: Signer) -> None:
    for half in ({"signing_cert": signer.certificate}, {"signing_key": signer.private}):
        with pytest.raises(ImageError) as caught:
            image.build(tmp_path / "a.eif", kernel=b"", cmdline="", ramdisks=[], metadata=ABOUT, **half)
        assert caught.value.code == "image.signing_key"
    assert not (tmp_path / "a.eif").exists()
