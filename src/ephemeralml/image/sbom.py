"""A software bill of materials (CycloneDX 1.6, JSON) of an image: each package and file that went in, by its hash.

Nothing in it comes from the clock or the machine: the serial number is made from PCR0.
"""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ephemeralml.image import debian, wheels
from ephemeralml.image.wheels import digest

_NAME: Final = "ephemeralml-enclave-image"
# Debian's machine-readable copyright files (DEP 5) begin so; the others are prose.
_DEP5: Final = "Format:"
_MAX_COPYRIGHT: Final = 1 << 20
# The kernel's boot protocol (Documentation/arch/x86/boot.rst): magic, and where its version's text is.
_BOOT_MAGIC, _BOOT_MAGIC_AT, _VERSION_AT, _SETUP_AT = b"HdrS", 0x202, 0x20E, 0x200


def sbom(
    *,
    pcrs: Mapping[str, str],
    packages: Sequence[Path],
    libraries: Sequence[Path],
    sources: Mapping[str, Path],
    kernel: Path,
) -> dict[str, Any]:
    """The bill of an image with these registers: Debian packages, wheels, our own sources by place, and the kernel.

    Raises OSError and `ImageError` (``image.packages``).
    """
    release = version("ephemeralml")
    ours = {
        **_component("application", "ephemeralml", release, purl=f"pkg:pypi/ephemeralml@{quote(release)}"),
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "components": [
            {"type": "file", "name": f"ephemeralml/{place}", "hashes": _hashes(path)} for place, path in sources.items()
        ],
    }
    components = [
        *sorted((_debian(path) for path in packages), key=lambda component: component["name"]),
        *sorted((_wheel(path) for path in libraries), key=lambda component: component["name"]),
        ours,
        {**_component("operating-system", "linux", kernel_release(kernel)), "hashes": _hashes(kernel)},
    ]
    image = {
        **_component("firmware", _NAME, release),
        "properties": [{"name": f"ephemeralml:{name}", "value": value} for name, value in sorted(pcrs.items())],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, pcrs["PCR0"]).urn,
        "version": 1,
        "metadata": {"component": image},
        "components": components,
        "dependencies": [{"ref": image["bom-ref"], "dependsOn": [component["bom-ref"] for component in components]}],
    }


def kernel_release(bzimage: Path) -> str:
    """The release that a bzImage names, as ``6.12.1``; ``unknown`` for anything else. Raises OSError."""
    with bzimage.open("rb") as file:
        head = file.read(1 << 16)
    if head[_BOOT_MAGIC_AT : _BOOT_MAGIC_AT + 4] != _BOOT_MAGIC:
        return "unknown"
    start = _SETUP_AT + int.from_bytes(head[_VERSION_AT : _VERSION_AT + 2], "little")
    match = re.match(rb"[0-9A-Za-z.+~_-]{1,64}", head[start:])
    return match[0].decode() if match else "unknown"


def _component(kind: str, name: str, release: str, *, purl: str | None = None) -> dict[str, Any]:
    identity = {} if purl is None else {"purl": purl}
    return {"type": kind, "bom-ref": purl or f"{name}@{release}", "name": name, "version": release, **identity}


def _debian(path: Path) -> dict[str, Any]:
    fields = debian.control(path)
    name, release, architecture = (str(fields[field]) for field in ("Package", "Version", "Architecture"))
    purl = f"pkg:deb/debian/{quote(name)}@{quote(release)}?arch={quote(architecture)}"
    component = _component("library", name, release, purl=purl)
    names = sorted(set(_debian_licenses(path, name)))
    return component | {"hashes": _hashes(path)} | _licenses({"license": {"name": license_}} for license_ in names)


def _debian_licenses(path: Path, name: str) -> Iterator[str]:
    place = f"usr/share/doc/{name}/copyright"
    with tempfile.TemporaryDirectory() as folder:
        debian.unpack(path, Path(folder), wanted=lambda member: member == place)
        copyright_ = Path(folder, place)
        if not copyright_.is_file() or copyright_.stat().st_size > _MAX_COPYRIGHT:
            return
        text = copyright_.read_text(encoding="utf-8", errors="replace")
    if text.startswith(_DEP5):
        yield from (match.strip() for match in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE))


def _wheel(path: Path) -> dict[str, Any]:
    about = wheels.metadata(path)
    name, release = str(about["Name"]).lower(), str(about["Version"])
    component = _component("library", name, release, purl=f"pkg:pypi/{quote(name)}@{quote(release)}")
    if expression := about["License-Expression"]:
        licenses = _licenses([{"expression": str(expression)}])
    else:
        classifiers = [text for text in about.get_all("Classifier", []) if text.startswith("License ::")]
        licenses = _licenses({"license": {"name": text.rpartition(" :: ")[2]}} for text in sorted(classifiers))
    return component | {"hashes": _hashes(path)} | licenses


def _licenses(choices: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"licenses": found} if (found := list(choices)) else {}


def _hashes(path: Path) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest(path)}]
