"""The image of a local enclave, and its measurements.

The image is a zip of this package's source files, and the enclave's process runs from it: what was measured is what
runs, whatever happens to the files meanwhile, and no compiled file beside them is ever read.

PCR0 = everything, PCR1 = the runtime (interpreter and installed libraries), PCR2 = the application (the image and the
enclave's configuration), each as one PCR extension: SHA-384(48 zero bytes ‖ SHA-384(content)). A changed line of code
or configuration changes PCR0 and PCR2.
"""

from __future__ import annotations

import io
import platform
import sys
import zipfile
from hashlib import sha384
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import ephemeralml
from ephemeralml.enclave import init

_ZERO = bytes(48)
# The distributions whose code runs inside the enclave's process; the last where it is installed.
_LIBRARIES = ("cbor2", "cffi", "cryptography", "numpy", "onnxruntime", "tokenizers", "openvino")
# Run without `site`, whose .pth files could run anything first: the libraries' folder is the last argument.
_MAIN = """import sys
sys.path.append(sys.argv.pop())
from {program} import main
raise SystemExit(main())
"""
ENCLAVE = init.MODULE
BENCHMARK = "ephemeralml.bench.suite.inside"
"""Programs an image may start: the enclave, and the one that measures itself, whose measurements are others."""


def build_image(sources: Path = Path(ephemeralml.__file__).parent, *, program: str = ENCLAVE) -> bytes:
    """The package's source files as a zip that Python can run: the same bytes for the same files, and no others.

    `program`: the module whose ``main`` it starts.
    """
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w") as archive:
        # A ZipInfo of its own date and mode, so that neither the files' nor today's get in.
        archive.writestr(zipfile.ZipInfo("__main__.py"), _MAIN.format(program=program))
        for path in sorted(sources.rglob("*.py")):
            name = f"ephemeralml/{path.relative_to(sources).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
    return image.getvalue()


def measure(configuration: bytes, *, image: bytes) -> dict[int, bytes]:
    """PCR0 to PCR2 (48 bytes each) of this `image` with this measured `configuration` (its canonical bytes)."""
    runtime, application = _runtime(), sha384(image).digest() + sha384(configuration).digest()
    return {0: _extend(runtime + application), 1: _extend(runtime), 2: _extend(application)}


def _extend(content: bytes) -> bytes:
    return sha384(_ZERO + sha384(content).digest()).digest()


def _runtime() -> bytes:
    listing = sha384(f"{platform.python_implementation()} {sys.version}\n".encode())
    for name in _LIBRARIES:
        if name == "openvino" and find_spec(name) is None:
            continue
        # RECORD lists every installed file with its SHA-256 (PEP 376).
        record = metadata.distribution(name).read_text("RECORD") or ""
        listing.update(f"{name} {metadata.version(name)}\n{record}".encode())
    return listing.digest()
