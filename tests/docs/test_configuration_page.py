"""The pages on configuration, images and the gateway against the code: keys, limits, registers, options."""

from __future__ import annotations

from dataclasses import fields

from command_lines import defaults
from pages import ROOT, code, names, numbers, table, tables

from ephemeralml import strict_json
from ephemeralml.attestation import Measurements, Policy
from ephemeralml.enclave import clock, registers
from ephemeralml.enclave.configuration import MAX_BYTES, Configuration
from ephemeralml.image import SectionKind, layout
from ephemeralml.session.limits import Limits

PAGE = "docs/configuration.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
CONFIGURATION, POLICY = tables(PAGE, "key", "default", "meaning")


def test_the_configuration_has_the_keys_and_defaults_of_the_page() -> None:
    assert names(CONFIGURATION) == [item.name for item in fields(Configuration)]
    made = Configuration(model_owner=b"o" * 32)
    default = {code(row[0])[0]: row[1] for row in CONFIGURATION}
    assert default["minimum_model_version"] == str(made.minimum_model_version)
    assert default["issuer"] == f'`"{made.issuer}"`'
    assert f"JSON, at most {MAX_BYTES:,} bytes." in TEXT


def test_the_limits_have_the_defaults_of_the_page() -> None:
    shown = {code(row[0])[0]: numbers(row[1])[0] for row in table(PAGE, "limit", "default", "meaning")}
    assert shown == {item.name: item.default for item in fields(Limits)}


def test_the_policy_has_the_keys_of_the_page() -> None:
    pcrs = dict.fromkeys(("pcr0", "pcr1", "pcr2"), "00" * 47 + "01")
    whole = Policy(
        measurements=[Measurements(**pcrs)], models=[b"m" * 32], model_id="x", minimum_model_version=2, extra_roots=[]
    )
    keys = set(strict_json.loads(whole.to_json().encode())) | {"extra_roots", "insecure_any_measurement"}
    assert set(names(POLICY)) == keys
    assert set(names([row for row in POLICY if row[1] == "required"])) == {"version", "measurements"}


def test_the_registers_are_those_that_the_enclave_writes() -> None:
    written = [row[0] for row in table(PAGE, "PCR", "holds", "written by") if row[2] == "the enclave, at boot"]
    assert written == [str(registers.MANIFEST_PCR), str(registers.CONFIGURATION_PCR)]
    assert f"within {clock.MAX_DIFFERENCE_SECONDS} seconds of the timestamp" in TEXT
    assert f"takes more than {clock.MAX_ANSWER_SECONDS} seconds is refused" in TEXT


def test_the_sections_of_an_image_are_those_of_the_page() -> None:
    rows = table("docs/image-format.md", "type", "section", "how many", "at most")
    most = {int(row[0]): int(numbers(row[3])[0]) << 10 for row in rows if row[3]}
    assert [int(row[0]) for row in rows] == list(SectionKind)
    assert most == {
        SectionKind.CMDLINE: layout.MAX_CMDLINE_BYTES,
        SectionKind.SIGNATURE: layout.MAX_SIGNATURE_BYTES,
        SectionKind.METADATA: layout.MAX_METADATA_BYTES,
    }
    text = (ROOT / "docs/image-format.md").read_text(encoding="utf-8")
    assert f"from byte {layout.HEADER_BYTES} to the end" in text
    assert f"\n{layout.CRC_OFFSET}    CRC-32" in text


def test_the_options_of_the_gateway_are_those_of_its_page() -> None:
    found = defaults("gateway")
    shown = {code(row[0])[0]: row[1] for row in table("docs/gateway.md", "option", "default", "meaning")}
    assert shown.keys() == found.keys() - {"--help"}
    assert code(shown["--relay"]) == [found["--relay"]]
    assert code(shown["--listen"]) == [found["--listen"]]
    assert numbers(shown["--keep"]) == [found["--keep"]]
