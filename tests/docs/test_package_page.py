"""docs/package-format.md against the code: fields, limits, files and the test value."""

from __future__ import annotations

import re
from typing import Any

from pages import ROOT, code, names, numbers, table, tables
from samples import OWNER, make_manifest

from ephemeralml.codec import cbor
from ephemeralml.package import manifest, model, stream
from ephemeralml.package.pack import OPTIONAL_FILES, REQUIRED_FILES

PAGE = "docs/package-format.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
MANIFEST, ARTIFACT, KEY = tables(PAGE, "key", "type", "meaning and limits")


def fields() -> dict[Any, Any]:
    value = cbor.decode(make_manifest().to_payload(), limit=manifest.MAX_MANIFEST_SIZE)
    assert isinstance(value, dict)
    return value


def meanings(rows: list[tuple[str, ...]]) -> dict[str, str]:
    return {code(row[0])[0]: row[2] for row in rows}


def test_the_manifest_has_the_fields_of_the_page() -> None:
    value = fields()
    assert value.keys() == set(names(MANIFEST))
    assert value["artifacts"][0].keys() == set(names(ARTIFACT))
    assert value["key"].keys() == set(names(KEY))
    (spec,) = re.findall(r"^`spec`: ((?:.+\n)+)", TEXT, re.MULTILINE)
    assert value["spec"].keys() == {name for name in code(spec) if re.fullmatch("[a-z_]+", name)}
    assert sizes(value, MANIFEST) == sizes(value["artifacts"][0], ARTIFACT) == sizes(value["key"], KEY) == []


def sizes(value: dict[Any, Any], rows: list[tuple[str, ...]]) -> list[str]:
    """The fields that are not of the type and size that the page gives them."""
    types: dict[str, type[Any]] = {"tstr": str, "int": int, "map": dict, "array": list, "bstr": bytes}
    wrong = []
    for name, shown, *_ in rows:
        kind, _, size = shown.rstrip(")").partition("(")
        found: Any = value[code(name)[0]]
        if type(found) is not types[kind] or (size and len(found) != int(size)):
            wrong.append(name)
    return wrong


def test_the_limits_are_those_of_the_code() -> None:
    top, artifact, key = map(meanings, (MANIFEST, ARTIFACT, KEY))
    assert top["type"] == f'`"{fields()["type"]}"`'
    assert top["format"] == str(manifest.FORMAT)
    assert numbers(top["model_id"]) == numbers(top["license"]) == [1, manifest.MAX_TEXT_LENGTH]
    assert numbers(top["artifacts"]) == [1, manifest.MAX_ARTIFACTS]
    assert numbers(artifact["name"])[0] == manifest.MAX_NAME_LENGTH
    assert artifact["size"] == f"plaintext bytes, at most {manifest.MAX_ARTIFACT_SIZE >> 30} GiB"
    assert numbers(artifact["chunk_size"]) == [stream.MIN_CHUNK_SIZE, stream.MAX_CHUNK_SIZE]
    assert key["provider"] == f'`"{manifest.PROVIDER_AWS_KMS}"`'
    assert numbers(key["wrapped_dek"]) == [1, manifest.MAX_WRAPPED_DEK_SIZE]
    assert f"at most {manifest.MAX_MANIFEST_SIZE:,} bytes" in TEXT
    (spec,) = re.findall(r"^`spec`: ((?:.+\n)+)", TEXT, re.MULTILINE)
    assert f"(3 to {model.MAX_SEQUENCE_LENGTH:,} tokens" in spec
    assert f"(1 to {model.MAX_DIMENSION:,})" in spec
    context = manifest.encryption_context(b"p" * 16, "x")
    assert [name for name in context if f'"{name}"' not in key["encryption_context"]] == []


def test_what_packs_and_runs_is_what_the_page_says() -> None:
    head = ("precision", "matrices and word table in `model.safetensors`", "engine", "all-MiniLM-L6-v2")
    assert names(table(PAGE, *head)) == list(model.PRECISIONS)
    required, optional = re.findall(r"^- (?:required|where present): ((?:.+\n)(?:  .+\n)*)", TEXT, re.MULTILINE)
    assert set(code(required)) == set(REQUIRED_FILES)
    assert set(code(optional)) == set(OPTIONAL_FILES)
    (runs,) = re.findall(r"It runs ((?:.+\n)+?.*)absolute positions", TEXT)
    assert set(code(runs)) == model.ARCHITECTURES | model.ACTIVATIONS


def test_the_test_value_is_what_the_code_makes() -> None:
    dek, salt, package_id = bytes(range(0x20)), bytes(range(0x20, 0x40)), bytes(range(0x10))
    cipher = stream.ArtifactCipher(
        dek, package_id=package_id, name="config.json", salt=salt, size=3, chunk_size=stream.CHUNK_SIZE
    )
    sealed = bytearray(3 + stream.TAG_SIZE)
    cipher.seal_into(0, b"abc", sealed)
    assert f"\n```text\n{cipher.header.hex()}\n{sealed.hex()}\n```" in TEXT
    assert f"chunk size (u32)        {stream.HEADER_SIZE} bytes" in TEXT
    assert OWNER.public_key().public_bytes_raw() == fields()["owner"]
