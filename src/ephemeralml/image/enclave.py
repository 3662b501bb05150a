"""The enclave's image from its recipe: two ramdisks, one for the interpreter (PCR1), one for the application (PCR2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ephemeralml.image import cpio, debian, rootfs, wheels
from ephemeralml.image.builder import build
from ephemeralml.image.cpio import Entry
from ephemeralml.image.debian import DebianPackage
from ephemeralml.image.interpreter import LIBRARY, LOADER, PROGRAM, Interpreter
from ephemeralml.image.metadata import Metadata
from ephemeralml.image.pieces import Piece
from ephemeralml.image.sources import FOLDER, INIT, enclave_sources
from ephemeralml.image.wheels import Wheel

# As `ephemeralml.enclave.init` starts the rest. Linux gives a script's interpreter one argument and no more.
SHEBANG: Final = b"#!/usr/bin/python3.13 -ISBu\n"
# Where init mounts what the kernel offers.
_MOUNT_POINTS: Final = ("dev", "proc", "sys", "run")
_EXECUTABLES: Final = (PROGRAM, LOADER)
# Debian's packages have everything under /usr; programs name their loader by its old place.
_MERGED: Final = {"lib": "usr/lib", "lib64": "usr/lib64"}
_LIBRARIES, _OURS, _CONFIGURATION = "app/lib", "app/ephemeralml", "app/configuration.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The lists of packages that an image is made of."""

    packages: tuple[DebianPackage, ...]
    wheels: tuple[Wheel, ...]

    @classmethod
    def load(cls, folder: Path) -> Recipe:
        """Read ``base.debs`` and ``wheels.txt``. Raises OSError and `ImageError` (``image.packages``)."""
        return cls(DebianPackage.read_list(folder / "base.debs"), Wheel.read_list(folder / "wheels.txt"))


@dataclass(frozen=True, slots=True)
class Kernel:
    """What starts the ramdisks: a bzImage, its command line, and the NSM's driver where it is no part of it."""

    image: Path
    cmdline: str
    nsm_driver: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveImage:
    """An image that was built: its registers, and what is in its two ramdisks."""

    pcrs: dict[str, str]
    base: tuple[Entry, ...]
    application: tuple[Entry, ...]


def build_enclave(
    out: Path,
    *,
    configuration: bytes,
    recipe: Recipe,
    kernel: Kernel,
    metadata: Metadata,
    signing_cert: Piece | None = None,
    signing_key: Piece | None = None,
    work: Path,
    on_step: Callable[[str], None] = lambda _: None,
) -> EnclaveImage:
    """Write the image at `out`: the same recipe, configuration, kernel and sources give the same registers anywhere.

    `configuration` is the file the enclave reads. `work` is an empty folder, in which the files stay. `on_step` hears
    what begins. Raises OSError, and `ImageError` of all that has a part in it.
    """
    interpreter = _fill(work, recipe, configuration=configuration, on_step=on_step)
    base = (
        *rootfs.entries(work / "base", executables=_EXECUTABLES),
        *(Entry.folder(name) for name in _MOUNT_POINTS),
        *(Entry.link(name, target) for name, target in _MERGED.items()),
        Entry.file("init", SHEBANG + (FOLDER / INIT).read_bytes(), executable=True),
        *(() if kernel.nsm_driver is None else (Entry.file("nsm.ko", kernel.nsm_driver),)),
    )
    application = tuple(rootfs.entries(work / "application"))
    ramdisks = [
        _ramdisk(work, name, entries, interpreter=interpreter, on_step=on_step)
        for name, entries in (("base", base), ("application", application))
    ]
    on_step("measuring")
    pcrs = build(
        out,
        kernel=kernel.image,
        cmdline=kernel.cmdline,
        ramdisks=ramdisks,
        metadata=metadata,
        signing_cert=signing_cert,
        signing_key=signing_key,
    )
    return EnclaveImage(pcrs=pcrs, base=base, application=application)


def _fill(work: Path, recipe: Recipe, *, configuration: bytes, on_step: Callable[[str], None]) -> Interpreter:
    """Make the files of both ramdisks, in folders named after them."""
    cache = debian.cache_folder()
    packages = debian.fetch(
        recipe.packages, cache=cache / "debs", on_fetch=lambda package: on_step(f"fetching {package.name}")
    )
    files = wheels.fetch(
        recipe.wheels, cache=cache / "wheels", on_fetch=lambda wheel: on_step(f"fetching {wheel.name}")
    )
    base, application = work / "base", work / "application"
    on_step("unpacking")
    for package in packages:
        debian.unpack(package, base, wanted=rootfs.in_base)
    for file in files:
        wheels.unpack(file, application / _LIBRARIES, wanted=rootfs.in_libraries)
    rootfs.drop_unused_libraries(base, application)
    for place, source in enclave_sources().items():
        target = application / _OURS / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (application / _CONFIGURATION).write_bytes(configuration)
    interpreter = Interpreter(base)
    for root, folder in ((application, _LIBRARIES), (application, _OURS), (base, LIBRARY)):
        on_step(f"compiling {folder}")
        interpreter.compile(root / folder, prefix=f"/{folder}/")
    return interpreter


def _ramdisk(
    work: Path, name: str, entries: Sequence[Entry], *, interpreter: Interpreter, on_step: Callable[[str], None]
) -> Path:
    on_step(f"packing the {name} ramdisk")
    archive, ramdisk = work / f"{name}.cpio", work / f"{name}.cpio.gz"
    with archive.open("wb") as file:
        cpio.write(file, entries)
    interpreter.compress(archive, ramdisk)
    return ramdisk
