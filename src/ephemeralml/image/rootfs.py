"""What of the packages goes into the image: little is taken, and what is left out is left out for a reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from ephemeralml.errors import ImageError
from ephemeralml.image import elf
from ephemeralml.image.cpio import Entry
from ephemeralml.image.interpreter import LIBRARY, LOADER, PROGRAM, SHARED_OBJECTS, VERSION

_EXTENSIONS: Final = f"{LIBRARY}/lib-dynload"

# Of Debian's packages: the interpreter, its library, and shared objects, of which those stay that something asks for.
BASE: Final = (PROGRAM, f"{LIBRARY}/*", f"{SHARED_OBJECTS}/*.so*", "usr/lib64/ld-linux-x86-64.so.2")


def _library(names: str) -> tuple[str, ...]:
    """Patterns of modules and packages of the standard library, and of extensions where they are named with a slash."""
    patterns: list[str] = []
    for name in names.split():
        place = f"{LIBRARY}/{name}"
        patterns += [f"{place}.py", f"{place}/*", f"{_EXTENSIONS}/{name}.cpython-*"]
    return tuple(patterns)


# Reason → what it leaves out. `*` crosses folders.
LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {
    "is not code": (
        *(
            "*.pyi",
            "*.pxd",
            "*.pyx",
            "*/py.typed",
            "*.txt",
            "*.md",
            "*.rst",
            "*.h",
            "*.c",
            "*.a",
            "*/LICENSE",
            "*/README*",
        ),
        *("*/EXTERNALLY-MANAGED", "*.dist-info/*", "*/__pycache__/*"),
    ),
    "is a test, or helps with tests": (
        *("app/lib/*/tests/*", "app/lib/*/testing/*", "app/lib/*/conftest.py", "app/lib/*_tests.cpython-*"),
        *_library("test unittest doctest _test* _ctypes_test _xxtestfuzz xxlimited* xxsubtype __hello__ __phello__"),
    ),
    "starts with `site`, which is off, or describes how Python was built": _library(
        "site sitecustomize _sitebuiltins sysconfig _sysconfigdata_* _distutils_system_mod EXTERNALLY-MANAGED"
    ),
    "is a tool for developers": (
        *_library(
            "pydoc pydoc_data pdb bdb cProfile profile pstats _lsprof trace timeit compileall py_compile tracemalloc runpy"
        ),
        *_library(
            "modulefinder pyclbr pickletools symtable tabnanny zipapp venv ensurepip idlelib lib2to3 this antigravity"
        ),
        *(
            "app/lib/numpy/f2py/*",
            "app/lib/numpy/_pyinstaller/*",
            "app/lib/numpy/_configtool.py",
            "app/lib/numpy/doc/*",
        ),
        *("app/lib/tokenizers/tools/*", "app/lib/numpy/_core/cversions.py"),
        *("app/lib/cbor2/tool.py", "app/lib/numpy/typing/mypy_plugin.py"),
    ),
    "is for somebody at a terminal": _library(
        "cmd code codeop curses _curses _curses_panel readline rlcompleter _pyrepl getpass pty tty termios "
        "tkinter turtle turtledemo fileinput optparse getopt json/tool asyncio/__main__"
    ),
    "speaks to the network, other than sockets and TLS": _library(
        "ftplib http imaplib poplib smtplib socketserver logging/config logging/handlers xmlrpc wsgiref webbrowser mailbox netrc "
        "urllib/request urllib/robotparser urllib/error urllib/response nturl2path"
    ),
    "starts other Python processes": _library(
        "multiprocessing _multiprocessing _posixshmem concurrent/futures/process _interpreters _interpchannels _interpqueues"
    ),
    "installs, unpacks or finds packages": _library(
        "zipfile tarfile gzip importlib/metadata importlib/resources importlib/abc importlib/readers importlib/simple pkgutil"
    ),
    "reads and writes formats that nothing here has": _library(
        "dbm _dbm _gdbm sqlite3 _sqlite3 shelve csv configparser html xml _markupbase plistlib tomllib wave mimetypes "
        "colorsys zoneinfo _zoneinfo uuid _uuid nis filecmp difflib quopri email/mime email/policy email/_policybase "
        "email/parser email/feedparser email/generator email/header email/headerregistry email/_header_value_parser "
        "email/contentmanager email/iterators email/message email/encoders email/_encoded_words email/charset email/errors "
        "email/base64mime email/quoprimime"
    ),
    "is loaded by libc or OpenSSL when asked for by name, which nothing does": (
        *(f"{SHARED_OBJECTS}/{part}/*" for part in ("gconv", "engines-3", "ossl-modules")),
    ),
    "is for another system": _library(
        "_aix_support _android_support _apple_support _ios_support _osx_support ctypes/macholib ctypes/wintypes ctypes/_aix "
        "asyncio/windows_events asyncio/windows_utils asyncio/proactor_events encodings/mbcs encodings/oem"
    ),
    "is general, and nothing here uses it": _library(
        "graphlib sched shlex statistics _statistics fractions tempfile pprint ctypes/util sre_*"
    ),
    "is a second implementation, in Python, of what is there in C": _library("_pyio _pydatetime _pydecimal _py_abc"),
    "encodes text other than Unicode, ASCII and Latin-1": _library(
        "_codecs_* _multibytecodec encodings/big5* encodings/cp* encodings/euc_* encodings/gb* encodings/hp_* "
        "encodings/hz encodings/iso* encodings/johab encodings/koi8_* encodings/kz1048 encodings/mac_* "
        "encodings/palmos encodings/ptcp154 encodings/shift_* encodings/tis_620 encodings/uu_codec encodings/quopri_codec "
        "encodings/rot_13 encodings/bz2_codec encodings/zlib_codec"
    ),
    "is of a library, and nothing of the enclave uses it": (
        # The only file of cffi that cryptography loads is the extension beside this folder.
        *("app/lib/cffi/*",),
        *(
            f"app/lib/numpy/{part}/*"
            for part in ("random", "fft", "ma", "polynomial", "char", "strings", "rec", "core")
        ),
        *("app/lib/numpy/ctypeslib/*", "app/lib/numpy/matlib.py", "app/lib/numpy/_core/_simd.cpython-*"),
        *("app/lib/numpy/_core/defchararray.py", "app/lib/numpy/_core/strings.py", "app/lib/numpy/lib/recfunctions.py"),
        *("app/lib/numpy/_core/lib/*", "app/lib/numpy/_core/include/*"),
        *(f"app/lib/onnxruntime/{part}/*" for part in ("backend", "datasets", "quantization", "tools", "transformers")),
        *("app/lib/onnxruntime/capi/convert_npz_to_onnx_adapter.py",),
        *("app/lib/onnxruntime/capi/onnxruntime_collect_build_info.py",),
        # The same engine once more, for programs in C.
        "app/lib/onnxruntime/capi/libonnxruntime.so*",
        *("app/lib/cryptography/cobblestone.py", "app/lib/cryptography/fernet.py"),
        "app/lib/cryptography/hazmat/primitives/serialization/pkcs7.py",
    ),
}


def in_base(path: str) -> bool:
    """Whether a file of a Debian package is taken."""
    return any(fnmatchcase(path, pattern) for pattern in BASE) and left_out(path) is None


def in_libraries(path: str) -> bool:
    """Whether a file of a wheel is taken."""
    return left_out(f"app/lib/{path}") is None


def left_out(path: str) -> str | None:
    """Why a file at `path` in the image is left out; None when it is not."""
    return next(
        (reason for reason, patterns in LEFT_OUT.items() if any(fnmatchcase(path, pattern) for pattern in patterns)),
        None,
    )


def drop_unused_libraries(base: Path, *others: Path) -> None:
    """Remove shared objects of `base` that no program or library of it or of `others` asks for.

    Raises OSError and `ImageError` (``image.library``) when one is asked for that is in none of them.
    """
    folder = base / SHARED_OBJECTS
    objects = {path.name: path for root in (base, *others) for path in _files(root) if ".so" in path.name}
    offered = {path.name for path in folder.iterdir() if path.is_file()}
    # Programs and extensions are loaded by themselves; the loader is in every program's header.
    waiting = [path for name, path in objects.items() if name not in offered] + [base / PROGRAM]
    used = {Path(LOADER).name}
    while waiting:
        path = waiting.pop()
        if not elf.is_elf(path):
            continue
        for name in elf.needed(path):
            if name not in objects:
                raise ImageError(
                    f"{path.name} needs {name}, which is in no package of the image's lists: add the one that has it",
                    code="image.library",
                )
            if name in offered and name not in used:
                used.add(name)
                waiting.append(objects[name])
    kept = used | {os.readlink(folder / name) for name in used if (folder / name).is_symlink()}
    for name in offered - kept:
        (folder / name).unlink()


def entries(root: Path, *, executables: Sequence[str] = ()) -> Iterator[Entry]:
    """Everything under `root` as it goes into a ramdisk: only `executables` (paths) may be run as programs."""
    for path in _files(root):
        place = path.relative_to(root).as_posix()
        if path.is_symlink():
            yield Entry.link(place, os.readlink(path))
        else:
            yield Entry.file(place, path, executable=place in executables)


def _files(root: Path) -> Iterator[Path]:
    """Files and links under a folder, in order; folders that are links are not entered."""
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)
