"""Whoever reads the pages notices what does not work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import commands
from pages import blocks
from readers import Reader, as_typed, machine


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with machine(tmp_path) as enter:
        reading = Reader(enter, tmp_path, {"GIVEN": "here"})
        yield reading
        reading.close()


def test_what_one_block_leaves_the_next_has(reader: Reader) -> None:
    reader.bash("mkdir inner && cd inner\nLEFT=$GIVEN")
    assert reader.bash('printf "$LEFT"; pwd').strip() == f"here{reader.folder}/inner"
    reader.python("left = 1")
    assert reader.python("print(left)").strip() == "1"


@pytest.mark.parametrize(
    "block", ["false\ntrue", "false | true", "echo $NOWHERE", "ephemeralml gateway --policy none.json"]
)
def test_a_command_that_fails_fails_its_block(reader: Reader, block: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="the block failed"):
        reader.bash(block)
    with pytest.raises(pytest.fail.Exception, match="a block above it"):
        reader.bash("true")


@pytest.mark.parametrize(
    "block", ["raise ValueError", "import sys; sys.exit(3)", "import warnings; warnings.warn('old')"]
)
def test_python_that_fails_or_warns_fails_its_block(reader: Reader, block: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="the block failed"):
        reader.python(block)


def test_a_machine_has_its_ports_for_itself(reader: Reader) -> None:
    listen = "import socket; kept = socket.create_server(('HOST', 7001)); print(kept.getsockname())"
    assert "('127.0.0.1', 7001)" in reader.python(listen)


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        ("ephemeralml gateway --policy policy.json", "gateway"),
        ("AWS_PROFILE=host ephemeralml host run package \\\n    --root dev-root &   # relay on port 7001", "host run"),
        ("ephemeralml gateway key gateway.keys", None),
        ("ephemeralml kms run kms-data --root dev-root > kms.log 2>&1 &", None),
        ("KEY=$(ephemeralml kms create-key --measurements measurements.json)", None),
    ],
)
def test_what_serves_is_waited_for(typed: str, kind: str | None) -> None:
    shown = as_typed(typed)
    assert (f"await '{kind}'" in shown) if kind else (shown == f"{typed}\n")


def test_blocks_are_found_with_what_is_said_of_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first = "<!-- not run here: no reason -->\n```sh\na\n```\n"
    page.write_text(first + "\n1. x\n\n   ```python\n   b\n     c\n   ```\n```text\nd\n```\n")
    found = [(block.line, block.language, block.text, block.why_not) for block in blocks(page)]
    assert found == [(2, "sh", "a\n", "no reason"), (8, "python", "b\n  c\n", ""), (12, "text", "d\n", "")]


def test_commands_are_found_wherever_they_stand() -> None:
    text = 'A=$(B=1 one --x "y z" | two) # three\nsudo -u me four \\\n  five > six && seven\n'
    assert [words for words in commands(text) if words] == [
        ["one", "--x", "y z"],
        ["two"],
        ["four", "five"],
        ["six"],
        ["seven"],
    ]
