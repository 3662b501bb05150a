"""Debian packages by their hashes: what a mirror or a cache may do, and what a package may hold."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from debs import make_deb

from ephemeralml.errors import ImageError
from ephemeralml.image import debian
from ephemeralml.image.debian import DebianPackage


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A mirror of what is in ``mirror/pool/main``."""
    (tmp_path / "mirror" / "pool" / "main").mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "mirror"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def package(tmp_path: Path) -> DebianPackage:
    """A package that the mirror has and the cache does not."""
    package = make_deb(tmp_path / "made", "tool", {"usr/bin/tool": b"#!"})
    (tmp_path / "mirror" / "pool" / "main").mkdir(parents=True, exist_ok=True)
    (made,) = (tmp_path / "made").iterdir()
    made.rename(tmp_path / "mirror" / package.path)
    return package


def refused(mirror: str, package: DebianPackage, cache: Path) -> ImageError:
    with pytest.raises(ImageError) as raised:
        debian.fetch([package], cache=cache, mirror=mirror)
    assert list(cache.iterdir()) == []
    return raised.value


def test_a_package_is_fetched_once_and_unpacked(package: DebianPackage, mirror: str, tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        (path,) = debian.fetch(
            [package], cache=tmp_path / "cache", mirror=mirror, on_fetch=lambda one: told.append(one.name)
        )
    assert told == ["tool"]
    debian.unpack(path, tmp_path / "root", wanted=lambda place: place.startswith("usr/bin/"))
    assert (tmp_path / "root" / "usr" / "bin" / "tool").read_bytes() == b"#!"


def test_a_changed_file_in_the_cache_is_fetched_again(package: DebianPackage, mirror: str, tmp_path: Path) -> None:
    (path,) = debian.fetch([package], cache=tmp_path / "cache", mirror=mirror)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"?")
    assert debian.fetch([package], cache=tmp_path / "cache", mirror=mirror) == [path]
    assert path.read_bytes() == good


@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"?", lambda data: data + b"more" * 10**6, lambda _: b""])
def test_another_file_than_the_lists_is_refused(
    package: DebianPackage, mirror: str, tmp_path: Path, change: object
) -> None:
    place = tmp_path / "mirror" / package.path
    place.write_bytes(change(place.read_bytes()))  # type: ignore[operator]
    assert refused(mirror, package, tmp_path / "cache").code == "image.hash"


def test_a_package_that_debian_has_replaced_is_said_to_be(package: DebianPackage, mirror: str, tmp_path: Path) -> None:
    (tmp_path / "mirror" / package.path).unlink()
    error = refused(mirror, package, tmp_path / "cache")
    assert error.code == "image.moved"
    assert "EPHEMERALML_DEBIAN_MIRROR" in str(error)


@pytest.mark.parametrize(
    ("mirror_at", "code"), [("http://127.0.0.1:9", "image.fetch"), ("file:///", "image.mirror"), ("x", "image.mirror")]
)
def test_a_mirror_that_does_not_answer(package: DebianPackage, tmp_path: Path, mirror_at: str, code: str) -> None:
    assert refused(mirror_at, package, tmp_path / "cache").code == code


@pytest.mark.parametrize(
    "line",
    [
        f"{'a' * 64} 10 dists/a.deb",
        f"{'a' * 64} 10 pool/../a.deb",
        f"{'a' * 63} 10 pool/a.deb",
        f"{'a' * 64} {2**30 + 1} pool/a.deb",
        "pool/a.deb",
    ],
)
def test_a_line_that_is_no_hash_size_and_place_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.debs").write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(ImageError, match="line 3") as raised:
        DebianPackage.read_list(tmp_path / "a.debs")
    assert raised.value.code == "image.packages"


def test_names_and_versions_are_in_the_place() -> None:
    package = DebianPackage("pool/main/g/gcc-14/libstdc++6_14.2.0-19_amd64.deb", 1, "")
    assert (package.name, package.version) == ("libstdc++6", "14.2.0-19")


def deb(*members: tarfile.TarInfo, size: str | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for member in members:
            archive.addfile(member)
    head = f"{'other':<16}{0:<12}{0:<6}{0:<6}{0:<8}{size if size is not None else 0:<10}`\n"
    named = f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{0:<8}{len(data.getvalue()):<10}`\n"
    return b"!<arch>\n" + head.encode() + named.encode() + data.getvalue()


def hard_link() -> tarfile.TarInfo:
    link = tarfile.TarInfo("./a")
    link.type, link.linkname = tarfile.LNKTYPE, "./not-wanted"
    return link


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"!<arch>\n",
        deb(tarfile.TarInfo("../outside")),
        deb(tarfile.TarInfo("/../outside")),
        deb(size="-60"),
        deb(size="many"),
        deb(hard_link()),
    ],
)
def test_what_is_no_package_or_leaves_its_folder_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.deb").write_bytes(content)
    with pytest.raises(ImageError) as raised:
        debian.unpack(tmp_path / "a.deb", tmp_path / "root" / "inner")
    assert raised.value.code == "image.packages"
    assert not list(tmp_path.rglob("outside"))
