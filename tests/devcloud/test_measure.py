"""What is measured is what runs: a changed line shows, and nothing beside the sources is run."""

from __future__ import annotations

import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import ephemeralml
from ephemeralml.devcloud.hypervisor import LocalEnclave
from ephemeralml.devcloud.measure import build_image, measure
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.session.transport import Address


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the package's source files."""
    return Path(
        shutil.copytree(
            Path(ephemeralml.__file__).parent, tmp_path / "ephemeralml", ignore=shutil.ignore_patterns("__pycache__")
        )
    )


def test_an_image_depends_on_the_sources_alone(sources: Path) -> None:
    image = build_image()
    assert build_image(sources) == image
    os.utime(sources / "errors.py", (0, 0))
    (sources / "errors.py").chmod(0o600)
    (sources / "notes.txt").write_text("no code")
    assert build_image(sources) == image


def test_a_changed_line_shows_in_pcr0_and_pcr2(sources: Path) -> None:
    before = measure(b"configuration", image=build_image(sources))
    assert set(before) == {0, 1, 2}
    assert all(len(value) == 48 for value in before.values())
    with (sources / "enclave" / "server.py").open("a") as file:
        file.write("\n")
    changed = measure(b"configuration", image=build_image(sources))
    configured = measure(b"other", image=build_image())
    for other in (changed, configured):
        assert (other[0] != before[0], other[1] == before[1], other[2] != before[2]) == (True, True, True)
    (sources / "enclave" / "added.py").write_text("")
    assert measure(b"configuration", image=build_image(sources))[0] != changed[0]


def test_a_planted_compiled_file_is_not_run(sources: Path, tmp_path: Path) -> None:
    """Python would run a .pyc whose header has the source's time and size, whatever is in it."""
    source = sources / "errors.py"
    planted = Path(importlib.util.cache_from_source(str(source)))
    planted.parent.mkdir()
    status = source.stat()
    header = b"".join(number.to_bytes(4, "little") for number in (0, int(status.st_mtime), status.st_size))
    code = compile("print('planted'); raise SystemExit(7)", str(source), "exec")
    planted.write_bytes(importlib.util.MAGIC_NUMBER + header + marshal.dumps(code))
    image = tmp_path / "image"
    image.write_bytes(build_image(sources))

    def run(*command: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.returncode, done.stdout

    # Without the image, the plant is what runs: the attack is real.
    assert run("-c", "import ephemeralml.errors") == (7, "planted\n")
    status_, out = run("-I", "-S", str(image), "--help", sysconfig.get_path("platlib"))
    assert (status_, "planted" in out) == (0, False)


def test_the_enclave_runs_no_start_up_code_of_its_environment(tmp_path: Path) -> None:
    """A .pth file beside the libraries runs in every interpreter that has `site`: the enclave's has not."""
    root = DevelopmentRoot.create()
    configuration = tmp_path / "enclave.json"
    configuration.write_text(f'{{"model_owner": "{"ab" * 32}"}}')
    none = Address("unix", path=f"{tmp_path}/none")
    with LocalEnclave(configuration=configuration, listen=none, host=none, root=root) as enclave:
        command = Path(f"/proc/{enclave.process.pid}/cmdline").read_bytes().split(b"\0")
        assert {b"-I", b"-S"} <= set(command)
        assert enclave.wait() == 1
