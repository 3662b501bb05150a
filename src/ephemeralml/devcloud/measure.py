"""Measurements of a local enclave, from what it really runs.

PCR0 = everything, PCR1 = the runtime (interpreter and installed libraries), PCR2 = the application (this package's
source files and the enclave's configuration), each as one PCR extension: SHA-384(48 zero bytes ‖ SHA-384(content)).
A changed line of code or configuration changes PCR0 and PCR2.
"""

from __future__ import annotations

import platform
import sys
from hashlib import sha384
from importlib import metadata
from pathlib import Path

import ephemeralml

_ZERO = bytes(48)
# The distributions whose code runs inside the enclave's process.
_LIBRARIES = ("cbor2", "cryptography", "numpy", "onnxruntime", "tokenizers")


def measure(configuration: bytes) -> dict[int, bytes]:
    """PCR0 to PCR2 (48 bytes each) of an enclave with this measured `configuration` (its canonical bytes)."""
    runtime, application = _runtime(), _application() + sha384(configuration).digest()
    return {0: _extend(runtime + application), 1: _extend(runtime), 2: _extend(application)}


def _extend(content: bytes) -> bytes:
    return sha384(_ZERO + sha384(content).digest()).digest()


def _application() -> bytes:
    root = Path(ephemeralml.__file__).parent
    listing = sha384()
    for path in sorted(root.rglob("*.py")):
        listing.update(path.relative_to(root).as_posix().encode() + b"\0")
        listing.update(sha384(path.read_bytes()).digest())
    return listing.digest()


def _runtime() -> bytes:
    listing = sha384(f"{platform.python_implementation()} {sys.version}\n".encode())
    for name in _LIBRARIES:
        # RECORD lists every installed file with its SHA-256 (PEP 376).
        record = metadata.distribution(name).read_text("RECORD") or ""
        listing.update(f"{name} {metadata.version(name)}\n{record}".encode())
    return listing.digest()
