"""Which shared objects a program or library asks for (ELF, 64 bits, little endian: System V ABI, chapters 4 and 5)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from ephemeralml.errors import ImageError

MAGIC: Final = b"\x7fELF\x02\x01\x01"
_HEADER: Final = struct.Struct("<16sHHIQQQIHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_LOAD, _DYNAMIC = 1, 2
_END, _NEEDED, _STRING_TABLE, _STRING_BYTES = 0, 1, 5, 10
_MAX_BYTES: Final = 1 << 24
_MAX_OFFSET: Final = 1 << 40


def is_elf(path: Path) -> bool:
    """Whether the file is a program or shared object. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def needed(path: Path) -> tuple[str, ...]:
    """The names (``DT_NEEDED``) that the loader looks for. Raises OSError and `ImageError` (``image.elf``)."""
    with path.open("rb") as file:
        try:
            return _needed(file)
        except (struct.error, ValueError) as error:
            raise ImageError(f"{path} is no sound ELF file: {error}", code="image.elf") from error


def _needed(file: BinaryIO) -> tuple[str, ...]:
    _, _, _, _, _, table, _, _, _, size, count = _HEADER.unpack(file.read(_HEADER.size))
    if size != _PROGRAM.size:
        raise ValueError("its program headers have another size")
    headers = list(_PROGRAM.iter_unpack(_read(file, table, count * size)))
    dynamic = next((header for header in headers if header[0] == _DYNAMIC), None)
    if dynamic is None:
        return ()
    tags = list(struct.iter_unpack("<qQ", _read(file, dynamic[2], dynamic[5])))
    values = {tag: value for tag, value in reversed(tags) if tag != _END}
    wanted = [value for tag, value in tags if tag == _NEEDED]
    if not wanted:
        return ()
    if not {_STRING_TABLE, _STRING_BYTES} <= values.keys():
        raise ValueError("it has no string table")
    address = values[_STRING_TABLE]
    for kind, _, offset, start, _, length, _, _ in headers:
        if kind == _LOAD and start <= address < start + length:
            strings = _read(file, offset + address - start, values[_STRING_BYTES])
            # Each ends with a zero byte; one outside the table is an error, and not the empty name.
            return tuple(strings[value : strings.index(b"\0", value)].decode() for value in wanted)
    raise ValueError("its string table is in no segment")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    if size > _MAX_BYTES or offset > _MAX_OFFSET:
        raise ValueError("a table of it is too large, or too far away")
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return data
