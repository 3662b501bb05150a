"""Which kernel an image gets: built once from pinned parts, refused when it is another, AWS's where that is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from debs import make_deb, programs

from ephemeralml.errors import ImageError
from ephemeralml.image.debian import DebianPackage, cache_folder
from ephemeralml.image.kernel import Kernel, dropped_options, installed_kernel, own_kernel

RECIPE = Path(__file__).parents[2] / "deploy/image/kernel"
CONFIG = "# Why.\nCONFIG_NSM=y\n# CONFIG_PCI is not set\n"
# The same two steps and the same places as the real one, without the waiting.
BUILD = """set -eu
case $1 in
configure) mkdir /out; cp /recipe/config /out/config;;
compile) cat /recipe/config /usr/src/linux.tar > /out/bzImage;;
esac
"""
BUILT = CONFIG.encode() + b"the source"


@pytest.fixture(scope="module")
def cache_of_packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DebianPackage]]:
    folder = tmp_path_factory.mktemp("packages")
    tools = make_deb(folder, "tools", programs("sh", "cat", "cp", "mkdir"))
    return folder, [tools, make_deb(folder, "source", {"usr/src/linux.tar": b"the source"})]


@pytest.fixture
def cache(tmp_path: Path, cache_of_packages: tuple[Path, list[DebianPackage]]) -> Path:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/debs").symlink_to(cache_of_packages[0])
    return tmp_path / "cache"


@pytest.fixture
def recipe(tmp_path: Path, cache_of_packages: tuple[Path, list[DebianPackage]]) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, package in zip(("toolchain", "source"), cache_of_packages[1], strict=True):
        (folder / f"{name}.debs").write_text(f"{package.sha256} {package.size} {package.path}\n")
    (folder / "config").write_text(CONFIG)
    (folder / "build.sh").write_text(BUILD)
    (folder / "cmdline").write_text("console=ttyS0 panic=1\n")
    (folder / "bzImage.sha256").write_text(f"{sha256(BUILT).hexdigest()}  bzImage\n")
    return folder


def _kept(cache: Path) -> set[str]:
    return {path.name.partition("-")[0] + path.suffix for path in (cache / "kernel").iterdir()}


def test_a_kernel_is_built_of_the_recipes_parts_once(recipe: Path, cache: Path) -> None:
    said: list[str] = []
    kernel = own_kernel(recipe, cache=cache, on_progress=said.append)

    assert kernel == Kernel(kernel.bzimage, "console=ttyS0 panic=1", sha256(kernel.bzimage.read_bytes()).hexdigest())
    assert kernel.bzimage.read_bytes() == BUILT
    assert said == ["unpacking the tool chain", "unpacking the source", "compiling, a few minutes"]
    assert own_kernel(recipe, cache=cache, on_progress=said.append) == kernel
    assert len(said) == 3
    assert _kept(cache) == {"bzImage", "bzImage.lock", "bzImage.log"}


@pytest.mark.parametrize("name", ["build.sh", "config", "source.debs", "toolchain.debs"])
def test_a_change_of_any_part_makes_another_kernel(recipe: Path, cache: Path, name: str) -> None:
    first = own_kernel(recipe, cache=cache)
    with (recipe / name).open("a") as file:
        file.write("# A word.\n")
    (recipe / "bzImage.sha256").write_text(sha256((recipe / "config").read_bytes() + b"the source").hexdigest())

    assert own_kernel(recipe, cache=cache).bzimage != first.bzimage


def test_a_kernel_changed_in_the_cache_is_refused(recipe: Path, cache: Path) -> None:
    kernel = own_kernel(recipe, cache=cache).bzimage
    kernel.write_bytes(BUILT + b"!")

    with pytest.raises(ImageError, match="remove it to build it again") as caught:
        own_kernel(recipe, cache=cache)

    assert caught.value.code == "image.kernel_hash"


def test_a_build_that_gives_another_kernel_than_the_recipe_says_is_refused(recipe: Path, cache: Path) -> None:
    (recipe / "bzImage.sha256").write_text("0" * 64)

    with pytest.raises(ImageError, match=sha256(BUILT).hexdigest()) as caught:
        own_kernel(recipe, cache=cache)

    assert caught.value.code == "image.kernel_hash"


@pytest.mark.parametrize(
    ("final", "dropped"),
    [
        ("# CONFIG_NSM is not set", "CONFIG_NSM=y"),
        ("CONFIG_OTHER=y", "CONFIG_NSM=y"),
        ("CONFIG_NSM=m", "CONFIG_NSM=y"),
        ("CONFIG_NSM=y\\nCONFIG_PCI=y", "CONFIG_PCI=n"),
    ],
)
def test_an_option_that_the_source_does_not_follow_ends_the_build(
    recipe: Path, cache: Path, final: str, dropped: str
) -> None:
    build = BUILD.replace("cp /recipe/config /out/config", f"printf '{final}' > /out/config")
    (recipe / "build.sh").write_text(build)

    with pytest.raises(ImageError, match=dropped) as caught:
        own_kernel(recipe, cache=cache)

    assert caught.value.code == "image.kernel_config"
    assert _kept(cache) == {"bzImage.lock", "bzImage.log"}


def test_a_failed_build_leaves_its_log_and_no_kernel(recipe: Path, cache: Path) -> None:
    (recipe / "build.sh").write_text(BUILD.replace("compile) cat", "compile) echo no rule to make it; false; cat"))

    with pytest.raises(ImageError, match="no rule to make it") as caught:
        own_kernel(recipe, cache=cache)

    assert caught.value.code == "image.build"
    assert _kept(cache) == {"bzImage.lock", "bzImage.log"}


def test_of_two_builds_at_once_one_waits_and_takes_the_others(recipe: Path, cache: Path) -> None:
    waiting = threading.Event()
    said: list[str] = []

    def first(what: str) -> None:
        said.append(what)
        assert waiting.wait(60)

    def second(what: str) -> None:
        said.append(what)
        waiting.set()

    def started(on_progress: Callable[[str], None]) -> Kernel:
        return own_kernel(recipe, cache=cache, on_progress=on_progress)

    with ThreadPoolExecutor() as threads:
        one = threads.submit(started, first)
        while not said:
            waiting.wait(0.01)
        other = threads.submit(started, second)

    assert one.result() == other.result()
    assert said.count("waiting for another build of this kernel") == 1
    assert said.count("compiling, a few minutes") == 1


def test_a_part_that_the_recipe_lacks_is_named(recipe: Path, cache: Path) -> None:
    (recipe / "config").unlink()

    with pytest.raises(OSError, match="config"):
        own_kernel(recipe, cache=cache)


def test_options_may_stand_in_any_order_among_others() -> None:
    wanted = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=128\nCONFIG_D=""\n# CONFIG_E is only talked about.\n'

    assert dropped_options(wanted, '# Linux\nCONFIG_D=""\nCONFIG_C=128\nCONFIG_A=y\nCONFIG_E=y\n') == []
    assert dropped_options(wanted, 'CONFIG_A=n\nCONFIG_B=m\nCONFIG_C=64\nCONFIG_D="x"\n') == [
        "CONFIG_A=y",
        "CONFIG_B=n",
        "CONFIG_C=128",
        'CONFIG_D=""',
    ]


def test_awss_kernel_comes_with_its_driver_and_takes_no_other_seed(tmp_path: Path) -> None:
    for name in ("bzImage", "bzImage.config", "init", "linuxkit", "nsm.ko"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "cmdline").write_text("reboot=k nomodules random.trust_cpu=on\n")

    kernel = installed_kernel(tmp_path)

    assert kernel == Kernel(
        tmp_path / "bzImage",
        "reboot=k nomodules random.trust_cpu=on random.trust_cpu=off random.trust_bootloader=off",
        sha256(b"bzImage").hexdigest(),
        (tmp_path / "nsm.ko",),
    )


def test_where_awss_package_is_not_installed_there_is_none(tmp_path: Path) -> None:
    assert installed_kernel(tmp_path / "blobs") is None


@pytest.mark.parametrize("name", ["bzImage", "cmdline", "nsm.ko"])
def test_half_of_awss_package_is_an_error(tmp_path: Path, name: str) -> None:
    for part in {"bzImage", "cmdline", "nsm.ko"} - {name}:
        (tmp_path / part).write_bytes(b"x")

    with pytest.raises(OSError, match=name):
        installed_kernel(tmp_path)


def test_the_real_recipe_says_each_option_once() -> None:
    lines = [line for line in (RECIPE / "config").read_text().splitlines() if "CONFIG_" in line]
    names = [line.removeprefix("# ").partition("=")[0].partition(" ")[0] for line in lines]

    assert len(set(names)) == len(names) > 100


@pytest.mark.slow
def test_the_real_recipe_makes_the_kernel_it_says(tmp_path: Path) -> None:
    """Some minutes; the packages are fetched, or in the user's cache already."""
    packages = cache_folder() / "debs"
    packages.mkdir(parents=True, exist_ok=True)
    (tmp_path / "debs").symlink_to(packages)

    kernel = own_kernel(RECIPE, cache=tmp_path)

    # The magic of Linux's boot protocol (Documentation/arch/x86/boot.rst).
    assert kernel.bzimage.read_bytes()[0x202:0x206] == b"HdrS"
