"""The registers an image gives its enclave: PCR0 all of it, PCR1 kernel and boot ramdisk, PCR2 the rest, PCR8 signer.

Each is one extension of a register of zeros by the hash of the content: H(zeros ‖ H(content)). Headers, metadata and
the signature's bytes are not measured. A Nitro enclave measures with SHA-384; AWS's builder can also with the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from ephemeralml.errors import ImageError
from ephemeralml.image.certificate import SigningCertificate
from ephemeralml.image.layout import MAX_SECTIONS, SectionKind
from ephemeralml.image.pieces import Piece, blocks, command_line

if TYPE_CHECKING:
    from hashlib import _Hash

Algorithm: TypeAlias = Literal["sha256", "sha384", "sha512"]


class Registers:
    """Hashes sections as they come, in the order of the file."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._image, self._boot, self._application = (hashlib.new(algorithm) for _ in range(3))
        self._ramdisks = 0

    def next_section(self, kind: SectionKind) -> tuple[_Hash, ...]:
        """The hashes that the content of the next section goes into."""
        match kind:
            case SectionKind.KERNEL | SectionKind.CMDLINE:
                return self._image, self._boot
            case SectionKind.RAMDISK:
                self._ramdisks += 1
                return self._image, self._boot if self._ramdisks == 1 else self._application
            case _:
                return ()

    def pcrs(self, signer: SigningCertificate | None) -> dict[str, str]:
        """``{"PCR0": …, "PCR1": …, "PCR2": …}`` in hex, and PCR8 where the image is signed."""
        contents = {"PCR0": self._image, "PCR1": self._boot, "PCR2": self._application}
        if signer is not None:
            contents["PCR8"] = hashlib.new(self._algorithm, signer.der)
        return {name: self._extend(content).hex() for name, content in contents.items()}

    def _extend(self, content: _Hash) -> bytes:
        return hashlib.new(self._algorithm, bytes(content.digest_size) + content.digest()).digest()


def measure(
    *,
    kernel: Piece,
    cmdline: str | bytes,
    ramdisks: Sequence[Piece],
    signing_cert: Piece | None = None,
    algorithm: Algorithm = "sha384",
) -> dict[str, str]:
    """The registers of an enclave started from an image of these pieces, without making the image.

    `kernel` and each of `ramdisks`: content as bytes, or the path of a file, which is read in blocks. `cmdline` is the
    command line itself. `signing_cert`: PEM, bytes or path. `algorithm`: anything but sha384 is for comparing with
    tools; no enclave reports it.

    Returns names to lower-case hex, as `ephemeralml policy create` reads it. Raises OSError for a file that cannot be
    read, and `ImageError`: ``image.cmdline``, ``.certificate``, ``.too_many`` (more pieces than an image can hold).
    """
    signer = None if signing_cert is None else SigningCertificate.load(signing_cert)
    registers = Registers(algorithm)
    for kind, piece in measured(kernel, cmdline, ramdisks, signed=signer is not None):
        hashes = registers.next_section(kind)
        for block in blocks(piece):
            for hash_ in hashes:
                hash_.update(block)
    return registers.pcrs(signer)


def measured(
    kernel: Piece, cmdline: str | bytes, ramdisks: Sequence[Piece], *, signed: bool
) -> list[tuple[SectionKind, Piece]]:
    """The sections that are measured, in order."""
    room = MAX_SECTIONS - len(("kernel", "cmdline", "metadata")) - signed
    if len(ramdisks) > room:
        raise ImageError(f"{len(ramdisks)} ramdisks; an image holds at most {room}", code="image.too_many")
    return [
        (SectionKind.KERNEL, kernel),
        (SectionKind.CMDLINE, command_line(cmdline)),
        *((SectionKind.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]
