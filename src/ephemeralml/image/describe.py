"""An image in plain values: for people, for JSON, and for comparing two."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from ephemeralml.errors import ImageError
from ephemeralml.image.layout import SectionKind
from ephemeralml.image.reader import Image


def describe(image: Image, *, at: datetime) -> dict[str, Any]:
    """All there is to know of an image, as JSON values; `at`: when the signing certificate's validity is judged."""
    header = image.header
    return {
        "version": header.version,
        "architecture": "aarch64" if header.aarch64 else "x86_64",
        "default_memory": header.memory,
        "default_cpus": header.cpus,
        "crc": {
            "stored": f"{header.crc:08x}",
            "computed": f"{image.computed_crc:08x}",
            "ok": header.crc == image.computed_crc,
        },
        "sections": [
            {"type": str(item.kind), "offset": item.offset, "size": item.size, "sha256": item.sha256.hex()}
            for item in image.sections
        ],
        "cmdline": image.cmdline.decode(errors="backslashreplace"),
        "metadata": image.metadata,
        "signature": _signature(image, at),
        "measurements": dict(image.pcrs),
    }


def _signature(image: Image, at: datetime) -> dict[str, Any] | None:
    if image.signature is None:
        return None
    certificate = image.signature.certificate
    try:
        image.check_signature()
        problem = None
    except ImageError as error:
        problem = str(error)
    return {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "valid_now": certificate.valid(at),
        "ok": problem is None,
        "problem": problem,
    }


def diff(left: Image, right: Image) -> dict[str, tuple[str | None, str | None]]:
    """What differs: its name to what it is in `left` and `right`, None where missing; empty when every byte is equal.

    The names may hold any text that metadata can; what it is, is printable ASCII.
    """
    ours, theirs = _facts(left), _facts(right)
    return {
        name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)
    }


def _facts(image: Image) -> dict[str, str]:
    header = image.header
    facts = {
        "version": f"{header.version}",
        "architecture": "aarch64" if header.aarch64 else "x86_64",
        "default memory": f"{header.memory}",
        "default CPUs": f"{header.cpus}",
        "order": ", ".join(str(section.kind) for section in image.sections),
    }
    ramdisks = 0
    for section in image.sections:
        name = str(section.kind)
        if section.kind is SectionKind.RAMDISK:
            ramdisks += 1
            name = f"ramdisk {ramdisks}"
        facts[name] = f"{section.size} bytes, sha256 {section.sha256.hex()}"
    _flatten(image.metadata, "metadata", facts)
    return {**facts, **image.pcrs}


def _flatten(value: object, name: str, facts: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}", facts)
    elif name != "metadata":
        facts[name] = json.dumps(value)
