"""Write an image: pieces pass through once, measured as they are written; the header comes last."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ephemeralml.errors import ImageError
from ephemeralml.files import whole_file
from ephemeralml.image import layout
from ephemeralml.image.layout import Header, SectionKind
from ephemeralml.image.metadata import Metadata
from ephemeralml.image.pcrs import Registers, measured
from ephemeralml.image.pieces import BLOCK_BYTES, Piece, blocks
from ephemeralml.image.signature import ImageSigner


def build(
    out: str | os.PathLike[str],
    *,
    kernel: Piece,
    cmdline: str | bytes,
    ramdisks: Sequence[Piece],
    metadata: Metadata,
    signing_cert: Piece | None = None,
    signing_key: Piece | None = None,
) -> dict[str, str]:
    """Write a version 4 image for x86_64 at `out`, whole or not at all, and return its registers as `measure` does.

    The same pieces and metadata give the same file, but for an ECDSA signature, which is another each time.
    Pieces as for `measure`. `signing_cert` and `signing_key` (PEM, bytes or paths) go together.

    Raises OSError, or `ImageError`: ``image.cmdline``, ``.too_many``, ``.metadata``, ``.certificate``,
    ``.signing_key``.
    """
    if (signing_cert is None) != (signing_key is None):
        raise ImageError("a signed image needs both a signing certificate and its key", code="image.signing_key")
    signer = None
    if signing_cert is not None and signing_key is not None:
        signer = ImageSigner.load(certificate=signing_cert, key=signing_key)
    pieces = measured(kernel, cmdline, ramdisks, signed=signer is not None)
    # AWS's place for it: behind the command line, before the ramdisks.
    pieces.insert(2, (SectionKind.METADATA, metadata.to_bytes()))
    registers = Registers("sha384")
    with whole_file(Path(out)) as file:
        file.write(bytes(layout.HEADER_BYTES))
        sizes = [_write(file, kind, piece, registers) for kind, piece in pieces]
        pcrs = registers.pcrs(None if signer is None else signer.certificate)
        if signer is not None:
            section = signer.sign(bytes.fromhex(pcrs["PCR0"]))
            sizes.append(_write(file, SectionKind.SIGNATURE, section, registers))
        file.seek(0)
        file.write(Header(sizes=tuple(sizes)).to_bytes())
        crc = _crc(file)
        file.seek(layout.CRC_OFFSET)
        file.write(crc.to_bytes(4))
    return pcrs


def _write(file: BinaryIO, kind: SectionKind, piece: Piece, registers: Registers) -> int:
    """Write a section behind its header, and return its size, which is known only then."""
    start = file.tell()
    file.write(layout.section_header(kind, 0))
    hashes = registers.next_section(kind)
    size = 0
    for block in blocks(piece):
        for hash_ in hashes:
            hash_.update(block)
        file.write(block)
        size += len(block)
    file.seek(start)
    file.write(layout.section_header(kind, size))
    file.seek(0, os.SEEK_END)
    return size


def _crc(file: BinaryIO) -> int:
    """The CRC of what is in the file now, without its own field."""
    file.seek(0)
    crc = zlib.crc32(file.read(layout.CRC_OFFSET))
    file.seek(layout.HEADER_BYTES)
    while block := file.read(BLOCK_BYTES):
        crc = zlib.crc32(block, crc)
    return crc
