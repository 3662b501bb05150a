"""Read an image: every byte once, in blocks, whatever its size; what it claims is checked on request."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final

from ephemeralml.errors import ImageError
from ephemeralml.image import layout
from ephemeralml.image.layout import Header, SectionKind
from ephemeralml.image.metadata import parse_metadata
from ephemeralml.image.pcrs import Algorithm, Registers
from ephemeralml.image.pieces import BLOCK_BYTES, Piece, open_piece
from ephemeralml.image.signature import Signature

# These are kept in memory; kernels and ramdisks only pass through.
_KEPT: Final = {
    SectionKind.CMDLINE: layout.MAX_CMDLINE_BYTES,
    SectionKind.METADATA: layout.MAX_METADATA_BYTES,
    SectionKind.SIGNATURE: layout.MAX_SIGNATURE_BYTES,
}


@dataclass(frozen=True, slots=True)
class Section:
    """One section: `offset` of its header in the file, `size` and SHA-256 of its content."""

    kind: SectionKind
    offset: int
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A well-formed image. Only `check` says whether it is intact and signed as it claims."""

    header: Header
    sections: tuple[Section, ...]
    cmdline: bytes
    metadata: Mapping[str, Any] | None
    signature: Signature | None
    computed_crc: int
    pcrs: Mapping[str, str]

    def check_crc(self) -> None:
        """Raises `ImageError` (``image.crc``) for a damaged file."""
        if self.computed_crc != self.header.crc:
            raise ImageError(
                f"enclave image: damaged: its CRC is {self.computed_crc:08x} and should be {self.header.crc:08x}; "
                "copy or build it again",
                code="image.crc",
            )

    def check_signature(self) -> None:
        """Raises `ImageError` (``image.signature``) for a signature that is not one of this image."""
        if self.signature is not None:
            self.signature.verify(bytes.fromhex(self.pcrs["PCR0"]))

    def check(self, *, at: datetime | None = None) -> None:
        """Check all that can be checked without a policy: the CRC, and the signature where there is one.

        With `at`, also that the signing certificate is valid then (``image.expired``): Nitro starts no other, but the
        registers of an old image stay what they are. Raises `ImageError`.
        """
        self.check_crc()
        self.check_signature()
        if at is not None and self.signature is not None and not self.signature.certificate.valid(at):
            certificate = self.signature.certificate
            raise ImageError(
                f"enclave image: its signing certificate is valid from {certificate.not_before} to "
                f"{certificate.not_after}, not at {at}; sign it again",
                code="image.expired",
            )


def measure_eif(
    path: str | os.PathLike[str], *, at: datetime | None = None, algorithm: Algorithm = "sha384"
) -> dict[str, str]:
    """The registers of an enclave started from this image, like `measure`, once `Image.check` passed.

    Raises OSError, or `ImageError` for a file that is malformed, damaged or wrongly signed.
    """
    image = read(path, algorithm=algorithm)
    image.check(at=at)
    return dict(image.pcrs)


def read(image: Piece, *, algorithm: Algorithm = "sha384") -> Image:
    """Read an image, a path or its bytes; memory stays at one block.

    Raises OSError, or `ImageError`: ``image.header``, ``.version``, ``.layout``, ``.section``, ``.sections``,
    ``.truncated``, ``.trailing``, ``.too_large``, ``.metadata``, ``.signature``, ``.certificate``.
    """
    with open_piece(image) as file:
        return _read(_Source(file), algorithm)


class _Source:
    """A file read from its start to its end, and the CRC of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc = 0

    def blocks(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes; no more is allocated than one block, whatever a header claims."""
        while size:
            block = self._file.read(min(size, BLOCK_BYTES))
            if not block:
                raise ImageError("enclave image: the file ends early", code="image.truncated")
            self.crc = zlib.crc32(block, self.crc)
            size -= len(block)
            yield block

    def take(self, size: int) -> bytes:
        return b"".join(self.blocks(size))

    def skip_crc(self, size: int) -> bytes:
        crc = self.crc
        data = self.take(size)
        self.crc = crc
        return data

    def end(self) -> None:
        if self._file.read(1):
            raise ImageError("enclave image: bytes after its last section", code="image.trailing")


def _read(source: _Source, algorithm: Algorithm) -> Image:
    covered = source.take(layout.CRC_OFFSET)
    header = Header.parse(covered + source.skip_crc(layout.HEADER_BYTES - layout.CRC_OFFSET))
    registers = Registers(algorithm)
    sections = []
    kept: dict[SectionKind, bytes] = {}
    for offset, size in zip(header.offsets, header.sizes, strict=True):
        kind = layout.parse_section_header(source.take(layout.SECTION_HEADER_BYTES), size=size)
        if size > _KEPT.get(kind, size):
            raise ImageError(f"enclave image: its {kind} has more than {_KEPT[kind]} bytes", code="image.too_large")
        digest, content = hashlib.sha256(), []
        hashes = (digest, *registers.next_section(kind))
        for block in source.blocks(size):
            for hash_ in hashes:
                hash_.update(block)
            if kind in _KEPT:
                content.append(block)
        sections.append(Section(kind, offset, size, digest.digest()))
        if kind in _KEPT:
            kept[kind] = b"".join(content)
    source.end()
    _check_kinds([section.kind for section in sections], header.version)
    metadata, signature = kept.get(SectionKind.METADATA), kept.get(SectionKind.SIGNATURE)
    parsed = None if signature is None else Signature.parse(signature)
    return Image(
        header=header,
        sections=tuple(sections),
        cmdline=kept[SectionKind.CMDLINE],
        metadata=None if metadata is None else parse_metadata(metadata),
        signature=parsed,
        computed_crc=source.crc,
        pcrs=registers.pcrs(None if parsed is None else parsed.certificate),
    )


def _check_kinds(kinds: list[SectionKind], version: int) -> None:
    """Kernel and command line once, ramdisks after the kernel, metadata once from version 4, one signature at most."""
    ramdisks = [index for index, kind in enumerate(kinds) if kind is SectionKind.RAMDISK]
    good = (
        kinds.count(SectionKind.KERNEL) == kinds.count(SectionKind.CMDLINE) == 1
        and (not ramdisks or ramdisks[0] > kinds.index(SectionKind.KERNEL))
        and (version >= 4) <= kinds.count(SectionKind.METADATA) <= 1
        and kinds.count(SectionKind.SIGNATURE) <= 1
    )
    if not good:
        raise ImageError(
            "enclave image: it needs one kernel, one command line, one metadata section from version 4 on, ramdisks "
            f"after the kernel and one signature at most; this one has {', '.join(map(str, kinds))}",
            code="image.sections",
        )
