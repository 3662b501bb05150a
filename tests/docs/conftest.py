"""A machine on which everything runs that the pages speak of, and somebody who reads them there."""

from __future__ import annotations

import itertools
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest
from eif import APPLICATION, BOOT, CMDLINE_TEXT, KERNEL_BYTES, make_signer
from pages import PAGES, ROOT, Block, blocks
from readers import Reader, machine

from ephemeralml import Bundle, image
from ephemeralml.image import Metadata
from ephemeralml.package import Manifest

SHELLS: Final = {"bash", "sh"}
# Written from the code: its commands are the examples of `--help`.
REFERENCE: Final = ROOT / "docs" / "reference"

# The README's own steps, for the pages that begin where these end.
_HOME = """
ephemeralml keygen owner.key
echo "{\\"model_owner\\": \\"$(cat owner.key.pub)\\"}" > enclave.json
ephemeralml enclave measure enclave.json > measurements.json
ephemeralml kms run kms-data --root dev-root
KEY=$(ephemeralml kms create-key --measurements measurements.json)
ephemeralml pack MODEL package --key owner.key --version 1 --model-id all-MiniLM-L6-v2 --kms-key "$KEY"
AWS_PROFILE=host ephemeralml host run package --configuration enclave.json --root dev-root
ephemeralml policy create --measurements measurements.json --root dev-root/root.der --out policy.json
ephemeralml embed "a text" --policy policy.json --receipt proof.aer
echo "$KEY" > key
ephemeralml kms create-key --measurements measurements.json > new-key
"""
# What docs/rotate.md asks of both keys' policies before a package moves from one to the other.
_LET_MOVE = """
import json
from pathlib import Path

import boto3

from ephemeralml.package import FolderSource, Manifest

package = Manifest.verify(FolderSource("package").manifest(), owner=None).package_id.hex()
kms = boto3.client("kms")
for name, action in (("key", "kms:ReEncryptFrom"), ("new-key", "kms:ReEncryptTo")):
    key = Path(name).read_text().strip()
    policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    for statement in policy["Statement"]:
        if statement["Effect"] == "Deny":
            statement["Action"] = "kms:Decrypt"
        if statement["Sid"] == "MakeDataKeys":
            owner = statement["Principal"]
    condition = {"StringEquals": {"kms:EncryptionContext:ephemeralml:package": package}}
    policy["Statement"].append(
        {"Effect": "Allow", "Principal": owner, "Action": action, "Resource": "*", "Condition": condition}
    )
    kms.put_key_policy(KeyId=key, Policy=json.dumps(policy))
kms.close()
"""


class Desk:
    """Reads pages, each from its top: before a block runs what stands above it, once."""

    def __init__(self, tmp: Path, model: Path, stack: ExitStack) -> None:
        self._tmp, self._model, self._stack = tmp, model, stack
        self._numbers = itertools.count()
        self._said: dict[Block, str] = {}
        self._reader: Reader | None = None
        self._page: Path | None = None
        self._own = ExitStack()
        self._home = self._folder()
        self._machine = stack.enter_context(machine(self._home))
        self._aws = {
            "AWS_SHARED_CREDENTIALS_FILE": str(self._home / "kms-data" / "credentials"),
            "AWS_PROFILE": "owner",
            "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:7002",
        }
        host = Reader(self._machine, self._home, self._aws)
        stack.callback(host.close)
        host.bash(_HOME)
        host.python(_LET_MOVE)
        _furnish(self._home)

    def run(self, block: Block) -> str:
        """What the block prints. Fails the test when it fails, or one above it did."""
        if block.page != self._page:
            self._begin(block.page)
        for above in blocks(block.page):
            if above.line <= block.line and runs(above) and above not in self._said:
                self._said[above] = self._type(above)
        return self._said[block]

    def close(self) -> None:
        """Leave the page at hand."""
        self._own.close()

    def _begin(self, page: Path) -> None:
        self.close()
        self._page = page
        folder = self._tmp / f"desk-{next(self._numbers)}"
        shutil.copytree(self._home, folder, symlinks=True, ignore=shutil.ignore_patterns(".*"))
        manifest = Manifest.verify(Bundle.load(folder / "proof.aer").manifest, owner=None)
        environment = self._aws | {
            "EPHEMERALML_RELAY": "tcp://127.0.0.1:7001",
            "EPHEMERALML_POLICY": "policy.json",
            "KEY": (folder / "key").read_text().strip(),
            "MODEL": "MODEL",
            "NEW_KEY": (folder / "new-key").read_text().strip(),
            "MODEL_DIGEST": manifest.digest.hex(),
        }
        self._sit(Reader(self._machine, folder, environment))

    def _sit(self, reader: Reader) -> None:
        self._own.callback(reader.close)
        self._reader = reader

    def _type(self, block: Block) -> str:
        if block.anew:
            self.close()
            folder = self._folder()
            self._sit(Reader(self._own.enter_context(machine(folder)), folder, {}))
        assert self._reader is not None
        return self._reader.python(block.text) if block.language == "python" else self._reader.bash(block.text)

    def _folder(self) -> Path:
        folder = self._tmp / f"desk-{next(self._numbers)}"
        folder.mkdir()
        (folder / "MODEL").symlink_to(self._model)
        return folder


def runs(block: Block) -> bool:
    """Whether a block is one that a reader can run, and that is no example of `--help`."""
    commands = block.language in {*SHELLS, "python"} and REFERENCE not in block.page.parents
    return commands and not block.why_not and not missing(block)


def missing(block: Block) -> set[str]:
    """The frameworks a block shows that are not installed: `make test-integrations` brings them."""
    shown = re.findall(r"^from (langchain_openai|llama_index)\b", block.text, re.MULTILINE)
    return {name for name in shown if find_spec(name) is None}


def _furnish(folder: Path) -> None:
    """What pages speak of and no step above made."""
    shutil.copyfile(folder / "proof.aer", folder / "x.aer")
    shutil.copyfile(folder / "measurements.json", folder / "pcrs.json")
    (folder / "lines.txt").write_text("The first line.\nThe second.\n")
    (folder / "bzImage").write_bytes(KERNEL_BYTES)
    (folder / "init.cpio.gz").write_bytes(BOOT)
    (folder / "app.cpio.gz").write_bytes(APPLICATION)
    (folder / "cert.pem").write_bytes(make_signer().certificate)
    for name in ("app.eif", "enclave.eif"):
        image.build(
            folder / name,
            kernel=KERNEL_BYTES,
            cmdline=CMDLINE_TEXT,
            ramdisks=[BOOT, APPLICATION],
            metadata=Metadata(),
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        reading = Desk(tmp_path_factory.mktemp("docs"), tiny_model, stack)
        stack.callback(reading.close)
        yield reading


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many blocks run, and why the others do not."""
    if not any("test_blocks.py::" in report.nodeid for report in terminalreporter.getreports("passed")):
        return
    every = [block for page in PAGES for block in blocks(page)]
    unrun = Counter(block.why_not for block in every if block.why_not)
    terminalreporter.section("blocks of the pages")
    for count, what in [
        (sum(map(runs, every)), "run"),
        (sum(block.language in {"json", "toml", "yaml"} for block in every), "read by the parser of such a file"),
        (
            sum(REFERENCE in block.page.parents and block.language in SHELLS for block in every),
            "examples of --help: parsed",
        ),
        (sum(bool(missing(block)) for block in every), "not run: frameworks that make test-integrations brings"),
        *((count, f"not run, parsed: {why}") for why, count in sorted(unrun.items())),
    ]:
        terminalreporter.write_line(f"{count:4} {what}")
