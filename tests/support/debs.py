"""Debian packages made on the spot, of this machine's own programs."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ephemeralml.image.debian import DebianPackage


def make_deb(folder: Path, name: str, files: Mapping[str, bytes]) -> DebianPackage:
    """A package of executable files, put where `debian.fetch` finds it in its cache."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz", preset=0) as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"./{path}")
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    deb = b"!<arch>\n" + _member("debian-binary", b"2.0\n") + _member("data.tar.xz", data.getvalue())
    package = DebianPackage(f"pool/main/{name}_1_amd64.deb", len(deb), sha256(deb).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{package.sha256[:16]}-{name}_1_amd64.deb").write_bytes(deb)
    return package


def _member(name: str, content: bytes) -> bytes:
    """A member of an ar(5) archive: name, times, owners, mode and size, then the content on even bytes."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
    return head.encode() + content + b"\n" * (len(content) % 2)


def programs(*names: str) -> dict[str, bytes]:
    """Programs of this machine and the shared objects they need, by their places under ``usr``."""
    files: dict[str, bytes] = {}
    for name in names:
        found = shutil.which(name)
        assert found is not None
        files[f"usr/bin/{name}"] = Path(found).read_bytes()
        for word in subprocess.run(["ldd", found], check=True, capture_output=True, text=True).stdout.split():
            if word.startswith("/"):
                files[f"usr{word.removeprefix('/usr')}"] = Path(word).read_bytes()
    return files
