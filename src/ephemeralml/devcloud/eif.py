"""What a hypervisor takes out of an enclave image: a kernel, one ramdisk, a command line, and the registers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from ephemeralml.errors import ImageError
from ephemeralml.image import Section, SectionKind, read
from ephemeralml.image.layout import SECTION_HEADER_BYTES

_BLOCK_BYTES: Final = 1 << 20
# Linux looks for an uncompressed archive at such offsets only (init/initramfs.c); it skips the zeros before.
_ALIGNMENT: Final = 4


@dataclass(frozen=True, slots=True)
class Extracted:
    """Files that a machine boots from, and the registers of the image that they were in (hex)."""

    kernel: Path
    ramdisk: Path
    cmdline: str
    pcrs: Mapping[str, str]


def extract(eif: Path, folder: Path) -> Extracted:
    """Write the kernel and all ramdisks in one file into `folder`, once the image is intact and signed as it claims.

    What is written is what was measured, whatever happens to the file meanwhile. Raises OSError and `ImageError`.
    """
    image = read(eif)
    image.check(at=datetime.now(UTC))
    kernel, ramdisk = folder / "kernel", folder / "ramdisk"
    try:
        cmdline = image.cmdline.decode("ascii")
    except UnicodeDecodeError:
        raise ImageError(f"{eif}: its command line is no ASCII", code="image.cmdline") from None
    with eif.open("rb") as source, kernel.open("wb") as first, ramdisk.open("wb") as rest:
        for section in image.sections:
            if section.kind is SectionKind.KERNEL:
                _copy(source, section, first)
            elif section.kind is SectionKind.RAMDISK:
                rest.write(bytes(-rest.tell() % _ALIGNMENT))
                _copy(source, section, rest)
    return Extracted(kernel, ramdisk, cmdline, image.pcrs)


def _copy(source: BinaryIO, section: Section, target: BinaryIO) -> None:
    source.seek(section.offset + SECTION_HEADER_BYTES)
    digest, left = hashlib.sha256(), section.size
    while left and (block := source.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        target.write(block)
        left -= len(block)
    if digest.digest() != section.sha256:
        raise ImageError("enclave image: it was changed while it was read; start again", code="image.changed")
