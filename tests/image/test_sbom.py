"""The bill of materials: as CycloneDX 1.6 has it, every ingredient, and nothing of the day or the machine."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ephemeralml.image import debian, wheels
from ephemeralml.image.enclave import Recipe
from ephemeralml.image.sbom import kernel_release, sbom
from ephemeralml.image.sources import enclave_sources

ROOT = Path(__file__).parents[2]
_PCRS = {"PCR0": "00" * 48, "PCR1": "11" * 48, "PCR2": "22" * 48}
_COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
License: Zlib

License: GPL-2+
 text
"""


def deb(path: Path, *, version: str, copyright_: str) -> Path:
    """A package as dpkg-deb makes it, by deb(5)."""

    def tar(files: dict[str, str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:xz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return out.getvalue()

    control = f"Package: zlib1g\nVersion: {version}\nArchitecture: amd64\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar({"./control": control}),
        "data.tar.xz": tar({"./usr/share/doc/zlib1g/copyright": copyright_}),
    }
    data = b"!<arch>\n"
    for name, content in members.items():
        data += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return path


def wheel(path: Path, about: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("numpy-2.dist-info/METADATA", f"Metadata-Version: 2.4\nName: NumPy\nVersion: 2\n{about}\n")
    return path


@pytest.fixture
def bill(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "bzImage").write_bytes(b"kernel")
    (tmp_path / "boot.py").write_bytes(b"pass")
    return sbom(
        pcrs=_PCRS,
        packages=[deb(tmp_path / "z.deb", version="1:1.3+really1.3.1-1", copyright_=_COPYRIGHT)],
        libraries=[wheel(tmp_path / "a.whl", "License-Expression: BSD-3-Clause AND MIT")],
        sources={"enclave/boot.py": tmp_path / "boot.py"},
        kernel=tmp_path / "bzImage",
    )


def problem(bill: dict[str, Any]) -> str | None:
    """What CycloneDX's own schema has against it."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    return None if found is None else str(found.data.message)


def test_it_keeps_to_the_schema_of_cyclonedx(bill: dict[str, Any]) -> None:
    assert problem(bill) is None
    assert problem({**bill, "kernel": "6.12"}) is not None
    bill["components"][0]["hashes"][0]["content"] = "00"
    assert problem(bill) is not None


def test_the_recipe_s_keeps_to_the_schema_and_each_wheel_has_its_license(image_cache: Path) -> None:
    recipe = Recipe.load(ROOT / "deploy" / "image")
    libraries = wheels.fetch(recipe.wheels, cache=image_cache / "wheels")
    made = sbom(
        pcrs=_PCRS,
        packages=debian.fetch(recipe.packages, cache=image_cache / "debs"),
        libraries=libraries,
        sources=enclave_sources(),
        kernel=ROOT / "LICENSE",
    )
    assert problem(made) is None
    licensed = [
        item["name"] for item in made["components"] if item.get("purl", "").startswith("pkg:pypi") and item["licenses"]
    ]
    assert len(licensed) == len(libraries) + 1


def test_each_component_is_referred_to_by_a_name_of_its_own(bill: dict[str, Any]) -> None:
    references = [component["bom-ref"] for component in (bill["metadata"]["component"], *bill["components"])]
    assert len(set(references)) == len(references)
    (root,) = bill["dependencies"]
    assert root == {"ref": references[0], "dependsOn": references[1:]}


def test_each_ingredient_is_named_hashed_and_licensed(bill: dict[str, Any], tmp_path: Path) -> None:
    found = {component["name"]: component for component in bill["components"]}
    assert found.keys() == {"zlib1g", "numpy", "ephemeralml", "linux"}
    assert found["zlib1g"]["purl"] == "pkg:deb/debian/zlib1g@1%3A1.3%2Breally1.3.1-1?arch=amd64"
    assert found["zlib1g"]["licenses"] == [{"license": {"name": "GPL-2+"}}, {"license": {"name": "Zlib"}}]
    assert found["numpy"]["purl"] == "pkg:pypi/numpy@2"
    assert found["numpy"]["licenses"] == [{"expression": "BSD-3-Clause AND MIT"}]
    assert [part["name"] for part in found["ephemeralml"]["components"]] == ["ephemeralml/enclave/boot.py"]
    for name, file in {"zlib1g": "z.deb", "numpy": "a.whl", "linux": "bzImage"}.items():
        (digest,) = found[name]["hashes"]
        assert digest["content"] == sha256((tmp_path / file).read_bytes()).hexdigest()


def test_it_follows_from_the_image_alone(bill: dict[str, Any], tmp_path: Path) -> None:
    assert str(tmp_path) not in json.dumps(bill)
    assert "timestamp" not in json.dumps(bill)


def test_a_copyright_in_prose_gives_no_license(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(b"kernel")
    made = sbom(
        pcrs=_PCRS,
        packages=[deb(tmp_path / "z.deb", version="1", copyright_="This is free.\nLicense: yes")],
        libraries=[wheel(tmp_path / "a.whl", "Classifier: License :: OSI Approved :: MIT License")],
        sources={},
        kernel=tmp_path / "bzImage",
    )
    assert "licenses" not in made["components"][0]
    assert made["components"][1]["licenses"] == [{"license": {"name": "MIT License"}}]


def test_a_bzimage_tells_its_release(tmp_path: Path) -> None:
    kernel = bytearray(4096)
    kernel[0x202:0x206] = b"HdrS"
    kernel[0x20E:0x210] = (0x400).to_bytes(2, "little")
    kernel[0x600:0x610] = b"6.12.1-x (a@b) #"
    (tmp_path / "bzImage").write_bytes(kernel)
    assert kernel_release(tmp_path / "bzImage") == "6.12.1-x"
    (tmp_path / "bzImage").write_bytes(b"short")
    assert kernel_release(tmp_path / "bzImage") == "unknown"
