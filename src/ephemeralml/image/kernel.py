"""The enclave's kernel: AWS's where that is installed, else our own from Debian's source, the same bytes for anyone.

The recipe (`deploy/image/kernel/`) pins source and tool chain by hash, and what must come of them.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from ephemeralml.errors import ImageError
from ephemeralml.files import whole_file
from ephemeralml.image import debian
from ephemeralml.image.sandbox import Sandbox

BLOBS: Final = Path("/usr/share/nitro_enclaves/blobs")
"""Where the package aws-nitro-enclaves-cli-devel puts AWS's kernel."""

# What the kernel is made from, and nothing else of the recipe's folder.
_INGREDIENTS: Final = ("build.sh", "config", "source.debs", "toolchain.debs")
_OPTION = re.compile(r"(?:# )?(CONFIG_\w+)(?:=(.*)| is not set)")
# The random numbers are to come from the security module alone (enclave/entropy.py): the last word counts.
_NO_OTHER_SEED: Final = "random.trust_cpu=off random.trust_bootloader=off"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bzImage, its command line and SHA-256, and the modules that the first ramdisk must have beside it."""

    bzimage: Path
    cmdline: str
    sha256: str
    modules: tuple[Path, ...] = ()


def installed_kernel(folder: Path = BLOBS) -> Kernel | None:
    """AWS's kernel and its driver of the security module, or None where AWS's package is not installed.

    Raises OSError when it is installed in part.
    """
    if not folder.is_dir():
        return None
    bzimage, module = folder / "bzImage", folder / "nsm.ko"
    bzimage.stat()
    module.stat()
    words = (folder / "cmdline").read_text(encoding="ascii").split()
    return Kernel(bzimage, " ".join([*words, _NO_OTHER_SEED]), _sha256(bzimage), (module,))


def own_kernel(
    recipe: Path, *, cache: Path | None = None, on_progress: Callable[[str], None] = lambda _: None
) -> Kernel:
    """The kernel of a recipe: from the cache, or built, which takes some minutes, and put there.

    Of two builds at once, the second waits for the first. Raises OSError and `ImageError`: ``image.kernel_config`` when
    an option of the recipe was dropped, ``image.kernel_hash`` when what is in the cache is not what the recipe says
    must come out; what `debian` and `Sandbox` raise.
    """
    cache = cache or debian.cache_folder()
    folder = cache / "kernel"
    folder.mkdir(parents=True, exist_ok=True)
    kernel = folder / f"bzImage-{_digest(recipe)}"
    with _alone(kernel.with_suffix(".lock"), on_progress):
        if not kernel.exists():
            _build(recipe, kernel, cache=cache, on_progress=on_progress)
    return Kernel(kernel, (recipe / "cmdline").read_text(encoding="ascii").strip(), _check(kernel, recipe))


def dropped_options(wanted: str, final: str) -> list[str]:
    """The lines of a configuration that another one does not follow: Kconfig drops in silence what it cannot have."""
    has = dict(_options(final))
    return [f"{name}={value}" for name, value in _options(wanted) if has.get(name, "n") != value]


def _options(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if match := _OPTION.fullmatch(line.strip()):
            yield match[1], match[2] or "n"


def _digest(recipe: Path) -> str:
    """One name for all that goes into the kernel."""
    whole = sha256()
    for name in _INGREDIENTS:
        whole.update(sha256((recipe / name).read_bytes()).digest())
    return whole.hexdigest()[:32]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _check(kernel: Path, recipe: Path) -> str:
    """The SHA-256 that the recipe says and the file has."""
    pinned = (recipe / "bzImage.sha256").read_text(encoding="ascii").partition(" ")[0].strip()
    found = _sha256(kernel)
    if found != pinned:
        raise ImageError(
            f"{kernel} has the SHA-256 {found}, the recipe says {pinned}: remove it to build it again; if the same "
            "comes out after a change of the recipe, write that into bzImage.sha256",
            code="image.kernel_hash",
        )
    return found


@contextmanager
def _alone(lock: Path, on_progress: Callable[[str], None]) -> Iterator[None]:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress("waiting for another build of this kernel")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(recipe: Path, kernel: Path, *, cache: Path, on_progress: Callable[[str], None]) -> None:
    packages = [
        package
        for name in ("toolchain.debs", "source.debs")
        for package in debian.DebianPackage.read_list(recipe / name)
    ]
    files = debian.fetch(
        packages, cache=cache / "debs", on_fetch=lambda package: on_progress(f"fetching {package.name}")
    )
    with tempfile.TemporaryDirectory(prefix="build-", dir=kernel.parent) as place:
        sandbox = Sandbox(Path(place) / "root", log=kernel.with_suffix(".log"))
        on_progress("unpacking the tool chain")
        sandbox.fill(files)
        shutil.copytree(recipe, sandbox.root / "recipe")
        out = sandbox.root / "out"
        on_progress("unpacking the source")
        sandbox.run("sh", "/recipe/build.sh", "configure")
        wanted, final = ((path / "config").read_text(encoding="utf-8") for path in (recipe, out))
        if dropped := dropped_options(wanted, final):
            raise ImageError(
                f"the kernel's source does not follow {recipe / 'config'}: {', '.join(dropped)}; "
                "find what each of these depends on with its menuconfig",
                code="image.kernel_config",
            )
        on_progress("compiling, a few minutes")
        sandbox.run("sh", "/recipe/build.sh", "compile")
        with whole_file(kernel) as file, (out / "bzImage").open("rb") as built:
            shutil.copyfileobj(built, file)
