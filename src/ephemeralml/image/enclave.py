"""The enclave's image from its recipe: two ramdisks, one for the interpreter (PCR1), one for the application (PCR2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ephemeralml.image import cpio, debian, rootfs, rules, wheels
from ephemeralml.image.builder import build
from ephemeralml.image.checked import checked_copy
from ephemeralml.image.cpio import Entry
from ephemeralml.image.debian import DebianPackage
from ephemeralml.image.interpreter import LIBRARY, LOADER, PROGRAM, Interpreter
from ephemeralml.image.kernel import Kernel
from ephemeralml.image.metadata import Metadata
from ephemeralml.image.pieces import Piece
from ephemeralml.image.sources import ENTRY, FOLDER, INIT, enclave_sources
from ephemeralml.image.wheels import Wheel

# As `ephemeralml.enclave.init` starts the rest. Linux gives a script's interpreter one argument and no more.
SHEBANG: Final = b"#!/usr/bin/python3.13 -ISBu\n"
# Where init mounts what the kernel offers. The interpreter starts before it does, and wants random bytes for its
# dictionaries while the kernel may have none yet: urandom(4) gives them all the same.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveImage:
    """An image that was built: its registers, what is in its ramdisks, and the files of which they were made.

    `packages`, `wheels` and `kernel` are the builder's own copies, in the folder of the work.
    """

    pcrs: Mapping[str, str]
    base: tuple[Entry, ...]
    application: tuple[Entry, ...]
    packages: tuple[Path, ...]
    wheels: tuple[Path, ...]
    kernel: Path
    sources: Mapping[str, Path]


def build_enclave(
    out: Path,
    *,
    configuration: bytes,
    recipe: Recipe,
    kernel: Kernel,
    metadata: Metadata,
    program: str = ENTRY,
    signing_cert: Piece | None = None,
    signing_key: Piece | None = None,
    work: Path,
    on_step: Callable[[str], None] = lambda _: None,
) -> EnclaveImage:
    """Write the image at `out`: the same recipe, configuration, kernel and sources give the same registers anywhere.

    `configuration` is the file the enclave reads, `program` the module whose ``main`` it runs. `work` is an empty
    folder, in which the files stay. `on_step` hears what begins. Raises OSError, and `ImageError` of all that has a
    part in it.
    """
    cache = debian.cache_folder()
    packages = debian.fetch(
        recipe.packages, cache=cache / "debs", on_fetch=lambda package: on_step(f"fetching {package.name}")
    )
    libraries = wheels.fetch(
        recipe.wheels, cache=cache / "wheels", on_fetch=lambda wheel: on_step(f"fetching {wheel.name}")
    )
    fetched = work / "fetched"
    packages = [
        checked_copy(path, fetched, package.sha256) for path, package in zip(packages, recipe.packages, strict=True)
    ]
    libraries = [
        checked_copy(path, fetched, wheel.sha256) for path, wheel in zip(libraries, recipe.wheels, strict=True)
    ]
    bzimage = checked_copy(kernel.bzimage, fetched, kernel.sha256)
    sources = enclave_sources(program=program)
    base, application = work / "base", work / "application"
    on_step("unpacking")
    for package in packages:
        debian.unpack(package, base, wanted=rules.in_base)
    for library in libraries:
        wheels.unpack(library, application / _LIBRARIES, wanted=rules.in_libraries)
    for place, source in sources.items():
        target = application / _OURS / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (application / _CONFIGURATION).write_bytes(configuration)
    rootfs.check_links(base, application)
    rootfs.drop_unused_libraries(base, application)
    interpreter = Interpreter(base)
    for root, folder in ((application, _LIBRARIES), (application, _OURS), (base, LIBRARY)):
        on_step(f"compiling {folder}")
        interpreter.compile(root / folder, prefix=f"/{folder}/")
    ramdisks = {
        "base": (
            *rootfs.entries(base, executables=_EXECUTABLES),
            *(Entry.folder(name) for name in _MOUNT_POINTS),
            Entry.device("dev/urandom", 1, 9),
            *(Entry.link(name, target) for name, target in _MERGED.items()),
            Entry.file("init", SHEBANG + _init(program), executable=True),
            *(Entry.file(module.name, module) for module in kernel.modules),
        ),
        "application": tuple(rootfs.entries(application)),
    }
    packed = []
    for name, entries in ramdisks.items():
        on_step(f"packing the {name} ramdisk")
        archive, ramdisk = work / f"{name}.cpio", work / f"{name}.cpio.gz"
        with archive.open("wb") as file:
            cpio.write(file, entries)
        interpreter.compress(archive, ramdisk)
        packed.append(ramdisk)
    on_step("measuring")
    pcrs = build(
        out,
        kernel=bzimage,
        cmdline=kernel.cmdline,
        ramdisks=packed,
        metadata=metadata,
        signing_cert=signing_cert,
        signing_key=signing_key,
    )
    return EnclaveImage(
        pcrs=pcrs,
        base=ramdisks["base"],
        application=ramdisks["application"],
        packages=tuple(packages),
        wheels=tuple(libraries),
        kernel=bzimage,
        sources=sources,
    )


def _init(program: str) -> bytes:
    """The first process, which starts `program`."""
    before, name, after = (FOLDER / INIT).read_bytes().partition(f'MODULE: Final = "{ENTRY}"'.encode())
    assert name
    return before + f'MODULE: Final = "{program}"'.encode() + after
