"""Every code block of README and docs runs, or is read by the product's own parser, or says why it cannot run here."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from command_lines import commands, defaults, parse
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from eif import make_signer
from pages import PAGES, ROOT, Block, blocks

from ephemeralml.attestation import Policy
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.errors import docs_link
from ephemeralml.host.key_policy.statements import read_statements

from .conftest import SHELLS, Desk, runs

BLOCKS = [block for page in PAGES for block in blocks(page)]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROSE = {page: re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL) for page in PAGES}


def those(condition: Callable[[Block], object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [block for block in BLOCKS if condition(block)], ids=str)


@those(lambda block: True)
def test_a_block_is_of_a_kind_that_is_checked(block: Block) -> None:
    assert block.language in {*SHELLS, "python", "json", "toml", "yaml", "text"}
    assert not block.why_not or block.language in SHELLS, "only commands may be left unrun"
    assert block.comment == "" or block.why_not or block.anew, f"a comment that says nothing: {block.comment}"


@those(runs)
def test_a_block_runs(block: Block, desk: Desk) -> None:
    desk.run(block)


@those(lambda block: block.language in SHELLS)
def test_every_command_of_a_block_exists_with_its_options(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for words in commands(block.text):
        match words:
            case ["ephemeralml", *arguments]:
                parse(arguments)
            case ["make", *targets]:
                assert {word for word in targets if "=" not in word} <= TARGETS
        for word in words:
            assert not word.startswith(("deploy/", "examples/", "scripts/")) or (ROOT / word).exists()


@those(lambda block: block.language in {"json", "toml", "yaml"})
def test_a_file_is_read_by_who_reads_it(block: Block) -> None:
    match block.language:
        case "toml":
            tomllib.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)
        case "json":
            read_json(filled(block.text))


def read_json(text: str) -> None:
    """By the parser of the file that has these members."""
    match json.loads(text):
        case {"error": str(), "code": code, "docs": docs}:
            assert docs == docs_link(code)
        case {"model_owner": _}:
            Configuration.parse(text.encode())
        case {"version": 1, **members} if members.keys() & {"measurements", "insecure_any_measurement"}:
            Policy.from_json(text)
        case {"Effect": _} as statement:
            read_statements(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
        # What a command says of an error with --json.
        case {"error": str(), "code": str(), "docs": str(place)}:
            assert (ROOT / place.partition("#")[0]).is_file()
        case _:
            pytest.fail("nothing of ours reads such a file: give it a parser here")


def filled(text: str) -> str:
    """The text with something in place of what a page only describes: ``"64 hex digits: …"``, ``"MII…"``."""
    certificate = x509.load_pem_x509_certificate(make_signer().certificate).public_bytes(Encoding.DER)
    text = re.sub(r'"(\d+) hex digits[^"]*"', lambda found: f'"{"1" * int(found[1])}"', text)
    return re.sub(r'"MII[^"]*…"', f'"{base64.b64encode(certificate).decode()}"', text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_options_that_a_page_names_exist(page: Path) -> None:
    shown = re.findall(r"`(ephemeralml [^`]+)`", PROSE[page])
    for block in blocks(page):
        if block.language == "text":
            # Without what is said of another command at a line's end.
            shown += re.findall(r"^ephemeralml .+(?:\n  .+)*", re.sub("`.*?`", "", block.text), re.MULTILINE)
    for command in shown:
        named = set(re.findall(r"(?<!\S)\[?(--[a-z][a-z0-9-]*)", command))
        assert named <= defaults(*command.split()[1:]).keys(), command
