"""docs/receipts.md against the code: claims and their numbers, the bundle, the steps, what ran."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from bundles import World, make_claims, make_world
from pages import ROOT, code, numbers, table

from ephemeralml import verify_bundle
from ephemeralml.attestation.document import MAX_DOCUMENT_BYTES
from ephemeralml.codec import cbor
from ephemeralml.errors import ReceiptError
from ephemeralml.package.manifest import MAX_MANIFEST_SIZE
from ephemeralml.package.model import PRECISIONS
from ephemeralml.receipts import bundle, claims, receipt
from ephemeralml.receipts.version import receipt_version

PAGE = "docs/receipts.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


def test_the_claims_are_those_of_the_code() -> None:
    rows = table(PAGE, "claim", "key", "rule", "what EphemeralML puts there")
    payload = cbor.decode(make_claims().to_payload(), limit=claims.MAX_PAYLOAD_BYTES)
    assert isinstance(payload, dict)
    assert {int(row[1]): code(row[0])[0] for row in rows} == claims._NAMES
    assert payload.keys() == claims._NAMES.keys()
    optional = {code(row[0])[0] for row in rows if "optional in the draft" in row[2]}
    assert optional == claims._OPTIONAL
    values = {code(row[0])[0]: code(row[2]) for row in rows}
    assert set(values["security_mode"]) == claims._SECURITY_MODES
    assert set(values["model_hash_scheme"]) == claims._MODEL_HASH_SCHEMES
    assert f"Texts are 1 to {claims.MAX_TEXT_BYTES:,} bytes" in TEXT
    assert f"(profile `{claims.PROFILE}`)" in TEXT
    assert f"Ed25519. At most {receipt.MAX_RECEIPT_BYTES:,} bytes." in TEXT


def test_each_size_in_the_table_is_the_one_that_is_enforced() -> None:
    rows = table(PAGE, "claim", "key", "rule", "what EphemeralML puts there")
    rules = {code(row[0])[0]: numbers(row[2]) for row in rows}
    made = make_claims()
    for name in ("cti", *claims._HASHES):
        assert rules[name] == [len(getattr(made, name))], name
    least, most = (int(number) for number in rules["eat_nonce"])
    for size, good in ((least - 1, False), (least, True), (most, True), (most + 1, False)):
        with nullcontext() if good else pytest.raises(ReceiptError, match="eat_nonce"):
            replace(made, eat_nonce=b"n" * size)
    assert len(make_claims().enclave_measurements.pcr0) in rules["enclave_measurements"]


def test_the_bundle_is_the_one_of_the_page(world: World) -> None:
    shown = {code(row[0])[0]: row[1] for row in table(PAGE, "key", "value")}
    value = cbor.decode(world.bundle(), limit=bundle.MAX_BUNDLE_BYTES)
    assert isinstance(value, dict)
    assert value.keys() == shown.keys()
    assert shown["format"] == f'`"{bundle.FORMAT}"`'
    assert shown["version"] == str(bundle.VERSION)
    assert numbers(shown["receipt"])[-1] == receipt.MAX_RECEIPT_BYTES
    assert numbers(shown["document"])[-1] == MAX_DOCUMENT_BYTES
    assert numbers(shown["manifest"])[-1] == MAX_MANIFEST_SIZE
    assert [numbers(shown[name])[0] for name in ("receipt", "document", "manifest")] == [1, 1, 1]


def test_the_steps_are_those_taken_in_that_order(world: World) -> None:
    listed = [name for row in table(PAGE, "step", "what") for name in row[0].split(", ")]
    assert listed == [step.name for step in verify_bundle(world.bundle(), policy=world.policy).steps]


def test_what_ran_is_said_as_the_page_says(world: World) -> None:
    rows = table(PAGE, "the manifest's `precision`", "`model_version` of version 3", "what ran")
    said = [
        (
            precision,
            receipt_version(replace(world.manifest, spec=replace(world.manifest.spec, precision=precision)), ran),
        )
        for precision, all_ran in PRECISIONS.items()
        for ran in all_ran
    ]
    assert [(code(row[0])[0], code(row[1])[0]) for row in rows] == said
