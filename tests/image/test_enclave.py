"""The enclave's image, built for real from the recipe: the same bytes anywhere, little inside, and all of it works."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import ramdisk
from ramdisk import Member

from ephemeralml import image
from ephemeralml.enclave import init
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.errors import ImageError
from ephemeralml.image import contents, debian, rootfs, rules, wheels
from ephemeralml.image.cpio import Entry
from ephemeralml.image.enclave import SHEBANG, Recipe
from ephemeralml.image.interpreter import LIBRARY, LOADER, PROGRAM, SHARED_OBJECTS
from ephemeralml.image.sources import enclave_sources

_RECIPE = Path(__file__).parents[2] / "deploy" / "image"
_ROOT = Path(__file__).parents[2]
# As an enclave's process is started, in whose place the tests stand.
_BUILD = """
import os, sys
from hashlib import sha256
from pathlib import Path
from ephemeralml import image
from ephemeralml.image.enclave import Recipe, build_enclave
from ephemeralml.image.kernel import Kernel

out, recipe, configuration = map(Path, sys.argv[1:])
work = out.parent / "work"
work.mkdir()
(out.parent / "bzImage").write_bytes(b"a kernel")
build_enclave(
    out, configuration=configuration.read_bytes(), recipe=Recipe.load(recipe),
    kernel=Kernel(out.parent / "bzImage", "console=ttyS0", sha256(b"a kernel").hexdigest()),
    metadata=image.Metadata(), work=work,
    program=os.environ.get("PROGRAM", "ephemeralml.enclave.__main__"),
)
"""


@dataclass(frozen=True)
class Built:
    eif: Path
    work: Path
    archives: list[bytes]
    members: list[Member]
    tree: Path

    @property
    def pcrs(self) -> dict[str, str]:
        return image.measure_eif(self.eif)

    def member(self, name: str) -> Member:
        (found,) = (member for member in self.members if member.name == name)
        return found

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The image's interpreter on the image's files, through the image's loader."""
        loader = [self.tree / LOADER, "--inhibit-cache", "--library-path", self.tree / SHARED_OBJECTS]
        start = f"import sys; sys.path[:0] = [{str(self.tree / 'app')!r}, {str(self.tree / 'app/lib')!r}]\n"
        command = [*loader, self.tree / PROGRAM, init.FLAGS, "-c", start + program, *arguments]
        return subprocess.run(list(map(str, command)), env={}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def configuration() -> bytes:
    return Configuration(model_owner=bytes(range(32))).to_json()


def _build(folder: Path, configuration: bytes, *, umask: int = 0o022, **environment: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "enclave.json").write_bytes(configuration)
    unset = {"SOURCE_DATE_EPOCH", "TZ", "LC_ALL", "LANG", "PYTHONHASHSEED"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    places = (folder / "a.eif", _RECIPE, folder / "enclave.json")
    command = [sys.executable, "-c", _BUILD, *map(str, places)]
    done = subprocess.run(
        command, env=inherited | environment, cwd=folder, umask=umask, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "a.eif"


@pytest.fixture(scope="session")
def built(image_cache: Path, configuration: bytes, tmp_path_factory: pytest.TempPathFactory) -> Built:
    eif = _build(tmp_path_factory.mktemp("image") / "one", configuration)
    work, tree = eif.parent / "work", eif.parent / "tree"
    archives = [gzip.decompress((work / f"{name}.cpio.gz").read_bytes()) for name in ("base", "application")]
    for archive in archives:
        ramdisk.unpack(archive, tree)
    return Built(eif, work, archives, [member for archive in archives for member in ramdisk.read(archive)], tree)


def test_another_folder_umask_zone_language_and_seed_give_the_same_bytes(
    built: Built, configuration: bytes, tmp_path: Path
) -> None:
    other = _build(
        tmp_path / "another and longer place",
        configuration,
        umask=0o077,
        TZ="Asia/Kathmandu",
        LC_ALL="tr_TR.UTF-8",
        PYTHONHASHSEED="7",
        SOURCE_DATE_EPOCH="1000000000",
    )
    assert other.read_bytes() == built.eif.read_bytes()


def _registers(ramdisks: list[bytes]) -> dict[str, str]:
    return image.measure(kernel=b"a kernel", cmdline="console=ttyS0", ramdisks=ramdisks)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("init", {"PCR2"}),
        (PROGRAM, {"PCR2"}),
        ("app/configuration.json", {"PCR1"}),
        ("app/ephemeralml/enclave/boot.pyc", {"PCR1"}),
    ],
)
def test_a_changed_byte_of_a_file_changes_the_registers_it_is_in(built: Built, name: str, same: set[str]) -> None:
    content = built.member(name).content
    other = content[:-1] + bytes([content[-1] ^ 1])
    changed = [archive.replace(content, other) for archive in built.archives]
    assert changed != built.archives
    registers = _registers(changed)
    assert {register for register, value in _registers(built.archives).items() if registers[register] == value} == same


def test_everything_is_roots_and_nobody_else_may_write(built: Built) -> None:
    for member in built.members:
        assert (member.fields["owner"], member.fields["group"], member.fields["time"]) == (0, 0, 0)
        assert member.mode & 0o7000 == 0
        assert stat.S_ISLNK(member.mode) or member.mode & 0o022 == 0
        assert stat.S_IFMT(member.mode) in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK} or member.name == "dev/urandom"


def test_random_bytes_are_there_before_init_mounts_anything(built: Built) -> None:
    device = built.member("dev/urandom")
    assert (device.mode, device.fields["rmajor"], device.fields["rminor"]) == (stat.S_IFCHR | 0o444, 1, 9)


def test_only_init_the_interpreter_and_its_loader_are_programs(built: Built) -> None:
    programs = {member.name for member in built.members if stat.S_ISREG(member.mode) and member.mode & 0o111}
    assert programs == {"init", PROGRAM, LOADER}
    assert built.member("init").content == SHEBANG + Path(init.__file__).read_bytes()
    assert f"#!{init.INTERPRETER} {init.FLAGS}\n".encode() == SHEBANG
    assert (init.APPLICATION, init.LIBRARIES, init.CONFIGURATION) == ("/app", "/app/lib", "/app/configuration.json")


def test_another_program_is_another_image(built: Built, configuration: bytes, tmp_path: Path) -> None:
    other = _build(tmp_path / "bench", configuration, PROGRAM="ephemeralml.bench.suite.inside")
    assert {name for name, value in image.measure_eif(other).items() if built.pcrs[name] == value} == set()
    members = ramdisk.read(gzip.decompress((other.parent / "work" / "base.cpio.gz").read_bytes()))
    (first,) = (member.content for member in members if member.name == "init")
    assert first.replace(b"ephemeralml.bench.suite.inside", init.MODULE.encode()) == built.member("init").content
    assert not [member.name for member in built.members if "bench" in member.name]


def test_no_shell_no_package_manager_no_network_tool_and_no_other_zone(built: Built) -> None:
    # `ssh` is also a key format, and a module of cryptography's.
    parts = {part.removesuffix(".pyc") for member in built.members for part in Path(member.name).parts} - {"ssh"}
    assert "ssh" not in {Path(member.name).name for member in built.members}
    unwanted = "sh bash dash busybox env apt dpkg pip ensurepip setuptools venv curl wget nc gcc ld perl"
    zones = "host client cli devcloud bench image pydoc idlelib test tests unittest http ftplib smtplib xmlrpc"
    assert parts & {*unwanted.split(), *zones.split()} == set()


def test_the_licenses_of_what_is_inside_are_inside(built: Built) -> None:
    """Of all that bring them: tokenizers does not, nor do packages whose texts are in another one's folder."""
    texts = {member.name for member in built.members if stat.S_ISREG(member.mode) and member.content}
    elsewhere = {"libgcc-s1", "libstdc++6", "libpython3.13-stdlib"}
    debs = {package.name for package in Recipe.load(_RECIPE).packages} - elsewhere
    assert {f"usr/share/doc/{name}/copyright" for name in debs} <= texts
    licensed = {Path(name).parts[2].partition("-")[0] for name in texts if ".dist-info/licenses/" in name}
    assert licensed == {"cbor2", "cffi", "cryptography", "numpy"}
    assert {f"app/lib/onnxruntime/{name}" for name in ("LICENSE", "ThirdPartyNotices.txt")} <= texts


def test_no_file_names_the_machine_that_built_it(built: Built) -> None:
    places = [str(path).encode() for path in (built.work.parent, _ROOT, debian.cache_folder(), Path.home())]
    for member in built.members:
        assert not [place for place in places if len(place) > 5 and place in member.content], member.name


def test_our_own_code_is_what_the_repository_has(built: Built) -> None:
    prefix = "app/ephemeralml/"
    ours = {member.name.removeprefix(prefix) for member in built.members if member.name.startswith(prefix)}
    compiled = {f"{place}c" for place in enclave_sources()}
    assert {name for name in ours if name.endswith(".pyc")} == compiled
    assert {str(parent) for name in compiled for parent in Path(name).parents} >= ours - compiled


def test_every_module_can_be_imported_and_no_other_is_named(built: Built) -> None:
    entries = [Entry(member.name, member.mode, member.content) for member in built.members]
    names = sorted(set(contents.modules(entries)))
    program = """
import importlib, json
failed = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""
    # A file, since arguments have a limit.
    (built.tree.parent / "names.json").write_text(json.dumps(names))
    program = program.replace("sys.stdin", f"open({str(built.tree.parent / 'names.json')!r})")
    done = built.run(program)
    assert json.loads(done.stdout.splitlines()[-1]) == {}, done.stderr
    assert not {name.partition(".")[0] for name in names} & {"pip", "setuptools", "openvino", "flatbuffers", "sympy"}


def test_a_model_runs_on_what_is_in_the_image(built: Built, tiny_model: Path) -> None:
    program = """
import json
from ephemeralml.inference import Encoder
from ephemeralml.package.model import read_model_spec
from pathlib import Path
import ephemeralml.enclave.__main__
vector = Encoder.from_folder(Path(sys.argv[1])).encode(["a text", "another"])
print(json.dumps([vector.shape, [name for name in sys.modules if name.startswith(("ephemeralml.host", "ssl"))]]))
"""
    done = built.run(program, tiny_model)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0] == [2, 32]


def test_every_shared_object_that_is_asked_for_is_there_and_no_other(built: Built) -> None:
    used: set[str] = set()
    for member in built.members:
        if member.content.startswith(b"\x7fELF"):
            listing = [built.tree / LOADER, "--inhibit-cache", "--library-path", built.tree / SHARED_OBJECTS, "--list"]
            done = subprocess.run(
                list(map(str, [*listing, built.tree / member.name])), capture_output=True, text=True, check=False
            )
            assert "not found" not in done.stdout, member.name
            used |= {Path(word).name for word in done.stdout.split() if word.startswith("/")}
    offered = {
        Path(member.name).name for member in built.members
        if member.name.startswith(f"{SHARED_OBJECTS}/") and stat.S_ISREG(member.mode)
    }  # fmt: skip
    links = {str(path.readlink()) for path in (built.tree / SHARED_OBJECTS).iterdir() if path.is_symlink()}
    assert offered - links - used - {Path(LOADER).name} == set()


def test_a_library_that_is_missing_stops_the_build(built: Built, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / SHARED_OBJECTS).mkdir(parents=True)
    (base / PROGRAM).parent.mkdir()
    (base / PROGRAM).write_bytes(built.member(PROGRAM).content)
    with pytest.raises(ImageError, match=r"python3.13 needs lib") as raised:
        rootfs.drop_unused_libraries(base)
    assert raised.value.code == "image.library"


def test_each_rule_leaves_something_out(image_cache: Path) -> None:
    """A rule that no longer does anything is a rule that nobody understands."""
    recipe = Recipe.load(_RECIPE)
    seen: set[str] = set()

    def see(path: str) -> bool:
        seen.add(path)
        return False

    for package in debian.fetch(recipe.packages, cache=image_cache / "debs"):
        debian.unpack(package, image_cache, wanted=see)
    for wheel in wheels.fetch(recipe.wheels, cache=image_cache / "wheels"):
        wheels.unpack(wheel, image_cache, wanted=lambda path: see(f"app/lib/{path}"))
    reasons = {rules.left_out(path) for path in seen}
    assert reasons == {None, *rules.LEFT_OUT}
    assert LIBRARY in {str(parent) for path in seen for parent in Path(path).parents}
