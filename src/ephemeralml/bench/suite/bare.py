"""Bare metal: the same encoder from the same model's files, in a process started as the enclave's is, without any."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.work import Answer, Question, Work, load_by_part, timed
from ephemeralml.errors import EphemeralMLError
from ephemeralml.inference import Encoder
from ephemeralml.inference.convert import convert_weights
from ephemeralml.inference.encoder import WEIGHTS_FILE
from ephemeralml.package import Manifest
from ephemeralml.package.model import Buffer, private_memory

_READY: Final = "listening on"


def main() -> int:
    """Load, listen on a TCP port of loopback, say which, and answer. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="ephemeralml.bench.bare")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        manifest = Manifest.verify(arguments.manifest.read_bytes(), owner=None)
        encoder = Encoder.from_buffers(read_files(arguments.model, manifest), spec=manifest.spec)
    except (EphemeralMLError, OSError) as error:
        sys.stderr.write(f"bare: {error}\n")
        return 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{_READY} tcp://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        Work(encoder, {"load": lambda question: _load(arguments.model, manifest, question)}).serve(listener)
    return 0


def read_files(folder: Path, manifest: Manifest) -> dict[str, Buffer]:
    """The files that the package was made of, seen to be those. Raises `BenchError` for others, and OSError."""
    files: dict[str, Buffer] = {}
    _read(folder, manifest, files)
    for artifact in manifest.artifacts:
        if sha256(files[artifact.name]).digest() != artifact.sha256:
            raise BenchError(
                f"{folder / artifact.name} is not what the package holds: bare metal and enclave would run two models",
                code="bench.model",
            )
    return files


def _read(folder: Path, manifest: Manifest, files: dict[str, Buffer]) -> None:
    for artifact in manifest.artifacts:
        content = (folder / artifact.name).read_bytes()
        if artifact.name == WEIGHTS_FILE:
            if manifest.spec.precision != "fp32":
                content = convert_weights(content, precision=manifest.spec.precision)
            # Memory that can be given back page by page, as the enclave's is.
            memory = private_memory(len(content))
            memory[:] = content
            files[artifact.name] = memory
        else:
            files[artifact.name] = content


def _load(folder: Path, manifest: Manifest, question: Question) -> Answer:
    spent: dict[str, list[float]] = {}
    for _ in range(question["rounds"]):
        files: dict[str, Buffer] = {}
        spent.setdefault("fetch", []).append(timed(_read, folder, manifest, files))
        for part, value in load_by_part(files, manifest.spec).items():
            spent.setdefault(part, []).append(value)
    return {"ms": spent, "sha256": _digests(read_files(folder, manifest))}


def _digests(files: Mapping[str, Buffer]) -> dict[str, str]:
    return {name: sha256(content).hexdigest() for name, content in files.items()}


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)
