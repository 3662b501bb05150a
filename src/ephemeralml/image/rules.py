"""Which files of the packages go into the image: little is taken, and what is left out is left out for a reason."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from ephemeralml.image.interpreter import LIBRARY, PROGRAM, SHARED_OBJECTS

# Of Debian's packages: the interpreter, its library, and shared objects, of which those stay that something asks for.
_BASE: Final = (PROGRAM, f"{LIBRARY}/*", f"{SHARED_OBJECTS}/*.so*", "usr/lib64/ld-linux-x86-64.so.2")
# Their licenses ask for it: whoever has the image has their texts.
_LICENSES: Final = (
    *("usr/share/doc/*/copyright", "app/lib/*.dist-info/licenses/*"),
    *("app/lib/onnxruntime/LICENSE", "app/lib/onnxruntime/ThirdPartyNotices.txt"),
)


def in_base(path: str) -> bool:
    """Whether a file of a Debian package is taken."""
    return any(fnmatchcase(path, pattern) for pattern in (*_BASE, *_LICENSES)) and left_out(path) is None


def in_libraries(path: str) -> bool:
    """Whether a file of a wheel is taken."""
    return left_out(f"app/lib/{path}") is None


def left_out(path: str) -> str | None:
    """Why a file at `path` in the image is left out; None when it is not."""
    if any(fnmatchcase(path, pattern) for pattern in _LICENSES):
        return None
    return next(
        (reason for reason, patterns in LEFT_OUT.items() if any(fnmatchcase(path, pattern) for pattern in patterns)),
        None,
    )


def _stdlib(*names: str) -> tuple[str, ...]:
    """Modules, packages and extensions of the standard library, by words of their names."""
    patterns: list[str] = []
    for name in " ".join(names).split():
        place = f"{LIBRARY}/{name}"
        patterns += [f"{place}.py", f"{place}/*", f"{LIBRARY}/lib-dynload/{name}.cpython-*"]
    return tuple(patterns)


def _wheels(*places: str) -> tuple[str, ...]:
    """Files, and folders with all that is in them, of wheels, by words."""
    words = " ".join(places).split()
    return tuple(pattern for word in words for pattern in (f"app/lib/{word}", f"app/lib/{word}/*"))


LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {
    "is not code": (
        *("*.pyi", "*.pxd", "*.pyx", "*/py.typed", "*.txt", "*.md", "*.rst", "*.h", "*.c", "*.a", "*/LICENSE"),
        *("*/EXTERNALLY-MANAGED", "*.dist-info/*", "*/__pycache__/*"),
    ),
    "is a test, or helps with tests": (
        *_wheels("*/tests */testing */conftest.py *_tests.cpython-*"),
        *_stdlib("test unittest doctest _test* _ctypes_test _xxtestfuzz xxlimited* xxsubtype __hello__ __phello__"),
    ),
    "starts with `site`, which is off, or describes how Python was built": _stdlib(
        "site sitecustomize _sitebuiltins sysconfig _sysconfigdata_* _distutils_system_mod"
    ),
    "is a tool for developers": (
        *_stdlib("pydoc pydoc_data pdb bdb cProfile profile pstats _lsprof trace tracemalloc timeit runpy"),
        *_stdlib(
            "compileall py_compile modulefinder pyclbr pickletools symtable tabnanny zipapp venv this antigravity"
        ),
        *_wheels("numpy/f2py numpy/_pyinstaller numpy/_configtool.py numpy/doc numpy/_core/cversions.py"),
        *_wheels("numpy/typing/mypy_plugin.py numpy/_core/include numpy/_core/lib cbor2/tool.py tokenizers/tools"),
    ),
    "is for somebody at a terminal": _stdlib(
        "cmd code codeop curses _curses _curses_panel readline rlcompleter _pyrepl getpass pty tty termios turtle",
        "fileinput optparse getopt json/tool asyncio/__main__",
    ),
    "speaks to the network, other than sockets and TLS": _stdlib(
        "ftplib http imaplib poplib smtplib socketserver xmlrpc wsgiref webbrowser mailbox netrc nturl2path",
        "urllib/request urllib/robotparser urllib/error urllib/response logging/config logging/handlers",
    ),
    "starts other Python processes": _stdlib(
        "multiprocessing _multiprocessing _posixshmem concurrent/futures/process",
        "_interpreters _interpchannels _interpqueues",
    ),
    "installs, unpacks or finds packages": _stdlib(
        "zipfile tarfile gzip pkgutil importlib/metadata importlib/resources importlib/abc importlib/readers",
        "importlib/simple",
    ),
    "reads and writes formats that nothing here has": (
        *_stdlib("dbm _dbm sqlite3 _sqlite3 shelve csv configparser html xml _markupbase plistlib tomllib wave"),
        *_stdlib("mimetypes colorsys zoneinfo _zoneinfo uuid _uuid filecmp difflib quopri"),
        # Of email, numbers and dates of headers stay.
        *_stdlib("email/mime email/policy email/_policybase email/parser email/feedparser email/generator"),
        *_stdlib("email/header email/headerregistry email/_header_value_parser email/contentmanager email/iterators"),
        *_stdlib("email/message email/encoders email/_encoded_words email/charset email/errors email/base64mime"),
        *_stdlib("email/quoprimime"),
        *_wheels("cryptography/hazmat/primitives/serialization/pkcs7.py"),
    ),
    "is loaded by libc or OpenSSL when asked for by name, which nothing does": (
        *(f"{SHARED_OBJECTS}/{folder}/*" for folder in ("gconv", "engines-3", "ossl-modules")),
    ),
    "is for another system": _stdlib(
        "_aix_support _android_support _apple_support _ios_support _osx_support ctypes/macholib ctypes/wintypes",
        "ctypes/_aix asyncio/windows_events asyncio/windows_utils asyncio/proactor_events encodings/mbcs encodings/oem",
    ),
    "is general, and nothing here uses it": _stdlib(
        "graphlib sched shlex statistics fractions tempfile pprint ctypes/util sre_*"
    ),
    "is a second implementation, in Python, of what is there in C": _stdlib("_pyio _pydatetime _pydecimal _py_abc"),
    "encodes text other than Unicode, ASCII and Latin-1": _stdlib(
        "_codecs_* _multibytecodec encodings/big5* encodings/cp* encodings/euc_* encodings/gb* encodings/hp_*",
        "encodings/hz encodings/iso* encodings/johab encodings/koi8_* encodings/kz1048 encodings/mac_*",
        "encodings/palmos encodings/ptcp154 encodings/shift_* encodings/tis_620 encodings/uu_codec",
        "encodings/quopri_codec encodings/rot_13 encodings/bz2_codec encodings/zlib_codec",
    ),
    "is of a library, and nothing of the enclave uses it": (
        # All of cffi that cryptography loads is the extension beside this folder.
        *_wheels("cffi cryptography/cobblestone.py cryptography/fernet.py"),
        *_wheels("numpy/random numpy/fft numpy/ma numpy/polynomial numpy/char numpy/strings numpy/rec numpy/core"),
        *_wheels("numpy/ctypeslib numpy/matlib.py numpy/lib/recfunctions.py numpy/_core/_simd.cpython-*"),
        *_wheels("numpy/_core/defchararray.py numpy/_core/strings.py"),
        *_wheels("onnxruntime/backend onnxruntime/datasets onnxruntime/quantization onnxruntime/tools"),
        *_wheels("onnxruntime/transformers onnxruntime/capi/convert_npz_to_onnx_adapter.py"),
        # The same engine once more, for programs in C.
        *_wheels("onnxruntime/capi/onnxruntime_collect_build_info.py onnxruntime/capi/libonnxruntime.so*"),
    ),
}
