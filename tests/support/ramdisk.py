"""A cpio archive read byte by byte, from the specification and without the code under test."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FIELDS = (
    "inode",
    "mode",
    "owner",
    "group",
    "links",
    "time",
    "size",
    "major",
    "minor",
    "rmajor",
    "rminor",
    "name",
    "sum",
)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    fields: dict[str, int]
    content: bytes

    @property
    def mode(self) -> int:
        return self.fields["mode"]


def read(archive: bytes) -> list[Member]:
    """The members but the trailer; anything the kernel would stumble over is an error."""
    members: list[Member] = []
    position = 0
    while True:
        assert position % 4 == 0
        assert archive[position : position + 6] == b"070701"
        digits = archive[position + 6 : position + 110]
        fields = {name: int(digits[8 * index : 8 * index + 8], 16) for index, name in enumerate(FIELDS)}
        position += 110
        name = archive[position : position + fields["name"]]
        assert name.endswith(b"\0")
        position += fields["name"]
        position += -position % 4
        content = archive[position : position + fields["size"]]
        assert len(content) == fields["size"]
        position += fields["size"]
        position += -position % 4
        if name == b"TRAILER!!!\0":
            assert position == len(archive)
            return members
        members.append(Member(name[:-1].decode(), fields, content))


def unpack(archive: bytes, into: Path) -> None:
    """As the kernel does, but for owners and times."""
    into.mkdir(exist_ok=True)
    for member in read(archive):
        path = into / member.name
        match member.mode >> 12:
            case 0o04:
                path.mkdir(exist_ok=True)
            case 0o12:
                path.symlink_to(os.fsdecode(member.content))
                continue
            case 0o10:
                path.write_bytes(member.content)
            case kind:
                raise AssertionError(f"{member.name}: type {kind:o}")
        path.chmod(member.mode & 0o7777)
