"""The bytes of an Enclave Image File: a header, then sections back to back, each behind a small header of its own.

Source: the specification in the README of aws-nitro-enclaves-image-format. It lets readers ignore reserved fields and
sections lie anywhere; here whatever AWS's tools do not write is refused, so that all readers see the same image.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

from ephemeralml.errors import ImageError

VERSION: Final = 4
MAX_SECTIONS: Final = 32
# What AWS's builder writes; nothing reads it.
DEFAULT_MEMORY: Final = 1 << 30
DEFAULT_CPUS: Final = 2

# The kernel itself reads 2,048 bytes of its command line.
MAX_CMDLINE_BYTES: Final = 64 << 10
MAX_METADATA_BYTES: Final = 256 << 10
# SIGNATURE_MAX_SIZE of the specification.
MAX_SIGNATURE_BYTES: Final = 32 << 10

_MAGIC = b".eif"
_VERSIONS = frozenset({2, 3, 4})
_AARCH64 = 0x1
_HEADER = struct.Struct(f">4sHHQQHH{MAX_SECTIONS}Q{MAX_SECTIONS}QII")
_SECTION = struct.Struct(">HHQ")

HEADER_BYTES: Final = _HEADER.size
SECTION_HEADER_BYTES: Final = _SECTION.size
# The CRC is the header's last field, and covers all of the file but itself.
CRC_OFFSET: Final = HEADER_BYTES - 4


class SectionKind(IntEnum):
    """What a section holds, by the number in its header."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5

    def __str__(self) -> str:
        return self.name.lower()


def _refuse(code: str, message: str) -> NoReturn:
    raise ImageError(f"enclave image: {message}", code=f"image.{code}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The file's header. `sizes`: bytes of each section's content; memory in bytes. Where sections start follows."""

    version: int = VERSION
    aarch64: bool = False
    memory: int = DEFAULT_MEMORY
    cpus: int = DEFAULT_CPUS
    sizes: tuple[int, ...]
    crc: int = 0

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each section's header starts, in bytes from the file's start."""
        starts, position = [], HEADER_BYTES
        for size in self.sizes:
            starts.append(position)
            position += SECTION_HEADER_BYTES + size
        return tuple(starts)

    def to_bytes(self) -> bytes:
        """The 548 bytes."""
        unused = [0] * (MAX_SECTIONS - len(self.sizes))
        return _HEADER.pack(
            *(_MAGIC, self.version, _AARCH64 if self.aarch64 else 0, self.memory, self.cpus),
            *(0, len(self.sizes), *self.offsets, *unused, *self.sizes, *unused),
            *(0, self.crc),
        )

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read the 548 bytes. Raises `ImageError` (``image.header``, ``.version``, ``.layout``)."""
        magic, version, flags, memory, cpus, reserved, count, *table, unused, crc = _HEADER.unpack(data)
        if magic != _MAGIC:
            _refuse("header", "the file does not begin with .eif: it is no enclave image")
        if version not in _VERSIONS:
            _refuse("version", f"version {version} is not supported, versions 2, 3 and 4 are")
        if flags & ~_AARCH64 or reserved or unused:
            _refuse("header", "reserved fields of the header are set")
        if not 2 <= count <= MAX_SECTIONS:
            _refuse("header", f"{count} sections; 2 to {MAX_SECTIONS} are possible")
        offsets, sizes = table[:MAX_SECTIONS], table[MAX_SECTIONS:]
        header = cls(
            version=version, aarch64=bool(flags), memory=memory, cpus=cpus, sizes=tuple(sizes[:count]), crc=crc
        )
        if tuple(offsets[:count]) != header.offsets:
            _refuse("layout", "sections overlap, leave gaps or are out of order")
        if any(offsets[count:]) or any(sizes[count:]):
            _refuse("layout", "the header describes more sections than it counts")
        return header


def section_header(kind: SectionKind, size: int) -> bytes:
    """The 12 bytes before a section of `size` bytes."""
    return _SECTION.pack(kind, 0, size)


def parse_section_header(data: bytes, *, size: int) -> SectionKind:
    """What the section holds that the file's header gives `size` bytes. Raises `ImageError` (``image.section``)."""
    kind, flags, own_size = _SECTION.unpack(data)
    if kind not in SectionKind.__members__.values():
        _refuse("section", f"there is no section type {kind}")
    if flags:
        _refuse("section", "reserved flags of a section are set")
    if own_size != size:
        _refuse("section", f"a section has {own_size} bytes by its own header and {size} by the file's")
    return SectionKind(kind)
