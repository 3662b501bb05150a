"""`--json`: of every command that has it, one JSON document on standard output and nothing else there; errors too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bundles import make_world
from eif import forge
from typer.main import get_command

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.cli.commands import make_app
from ephemeralml.cli.kms import ACCOUNT, REGION
from ephemeralml.devcloud.kms.policy import default_policy
from ephemeralml.devcloud.world import World, run
from ephemeralml.host.kms_keys import KmsKeys

from .conftest import Run

PCRS = {f"PCR{index}": f"{index + 1:02x}" * 48 for index in range(3)}
ROLE, ADMIN = ("arn:aws:iam::111122223333:role/host", "arn:aws:iam::444455556666:role/admin")
RESULTS = Path(__file__).parents[2] / "docs" / "results"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder with one of everything, and what serves."""

    folder: Path
    world: World
    s3: str
    key: str
    relay: str

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    def packing(self) -> tuple[str, ...]:
        return ("--key", self / "owner.key", "--kms-key", self.key, "--kms-endpoint", self.world.kms_url)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "model").symlink_to(tiny_model)
    (folder / "pcrs.json").write_text(json.dumps(PCRS))
    (folder / "key-policy.json").write_text(default_policy(ACCOUNT))
    for name in ("a.eif", "b.eif"):
        (folder / name).write_bytes(forge())
    others = make_world()
    others.policy.save(folder / "auditor.json")
    (folder / "proof.aer").write_bytes(others.bundle())
    (folder / "bad.aer").write_bytes(others.bundle(eat_nonce=None))
    with World(folder) as world:
        _, s3 = world.start_s3()
        owner = world.environment("owner")
        run("keygen", str(folder / "owner.key"))
        (folder / "enclave.json").write_text(
            json.dumps({"model_owner": (folder / "owner.key.pub").read_text().strip()})
        )
        measured = folder / "measured.json"
        measured.write_text(run("enclave", "measure", str(folder / "enclave.json")))
        create = ("kms", "create-key", "--measurements", str(measured), "--endpoint", world.kms_url)
        key = run(*create, environment=owner).strip()
        packing = ("--key", str(folder / "owner.key"), "--kms-key", key, "--kms-endpoint", world.kms_url)
        run("pack", str(folder / "model"), str(folder / "package"), *packing, "--version", "1", environment=owner)
        made = ("--measurements", str(measured), "--root", str(world.root / "root.der"))
        run("policy", "create", *made, "--out", str(folder / "policy.json"))
        # A key that the owner may move a data key from and to.
        with pytest.MonkeyPatch.context() as patch:
            for name, value in owner.items():
                patch.setenv(name, value)
            movable = KmsKeys(region=REGION, endpoint_url=world.kms_url).create(default_policy(ACCOUNT), description="")
        packing = ("--key", str(folder / "owner.key"), "--kms-key", movable, "--kms-endpoint", world.kms_url)
        run("pack", str(folder / "model"), str(folder / "movable"), *packing, "--version", "1", environment=owner)
        host = world.host(folder / "package", folder / "enclave.json")
        yield Place(folder=folder, world=world, s3=s3, key=movable, relay=host.event("ready")["relay"])


@pytest.fixture
def run_here(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run` by the owner."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, value in place.world.environment("owner").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return run


Arguments = Callable[[Place], tuple[str, ...]]
# Of each command: its exit status, its arguments, and some of what it has to say.
TABLE: dict[str, tuple[int, Arguments, dict[str, Any]]] = {
    "keygen": (0, lambda at: (at / "new.key",), {}),
    "pack": (0, lambda at: (at / "model", at / "second", *at.packing(), "--version", "2"), {"version": 2}),
    "rewrap": (
        0,
        lambda at: (at / "movable", at / "third", "--from", _digest(at), *at.packing(), "--version", "3"),
        {"version": 3, "replaced_version": 1},
    ),
    "push": (
        0,
        lambda at: (at / "package", "s3://models/tiny", "--s3-endpoint", at.s3),
        {"published": True, "replaced_version": None},
    ),
    "inspect": (0, lambda at: (at / "proof.aer",), {"kind": "bundle"}),
    "policy create": (
        0,
        lambda at: ("--measurements", at / "pcrs.json", "--out", at / "made.json"),
        {"development_roots": 0},
    ),
    "kms check": (
        1,
        lambda at: ("--file", at / "key-policy.json", "--account", "0" * 12, "--measurements", at / "pcrs.json"),
        {"ok": False},
    ),
    "image build": (
        0,
        lambda at: ("--kernel", at / "a.eif", "--cmdline", "x", "--ramdisk", at / "b.eif", "--out", at / "made.eif"),
        {},
    ),
    "image measure": (0, lambda at: (at / "a.eif",), {}),
    "image describe": (0, lambda at: (at / "a.eif",), {"version": 4}),
    "image diff": (0, lambda at: (at / "a.eif", at / "b.eif"), {"equal": True, "differences": {}}),
    "verify": (0, lambda at: (at / "proof.aer", "--policy", at / "auditor.json"), {"ok": True, "confidential": False}),
    "inspector": (0, lambda at: ("--out", at / "page.html"), {}),
    "doctor": (1, lambda _: ("--platform", "nitro", "--relay", "tcp://127.0.0.1:0"), {"ready": False}),
    "embed": (
        0,
        lambda at: ("a", "b", "--policy", at / "policy.json", "--address", at.relay, "--out", at / "v.npy"),
        {"texts": 2, "answered_before": 0, "dimension": 32, "confidential": False},
    ),
    "bench report": (
        0,
        lambda at: (*map(str, sorted(RESULTS.glob("*_results.json"))), "--output", at / "report/page.md"),
        {},
    ),
}
# What these make takes minutes: `image enclave` is tested where it is made anyway.
ELSEWHERE = {"image enclave", "bench run", "bench speed", "bench peers"}
# What they print is JSON, whoever asks.
ALWAYS: dict[str, Arguments] = {
    "policy show": lambda at: (at / "auditor.json",),
    "enclave measure": lambda at: (at / "enclave.json",),
    "kms policy": lambda at: ("--measurements", at / "pcrs.json", "--role", ROLE, "--admin", ADMIN, "--owner", ADMIN),
}


def _digest(at: Place) -> str:
    found: str = json.loads(run("inspect", at / "movable", "--json"))["digest"]
    return found


def _with_json(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if any("--json" in parameter.opts for parameter in command.params):
        yield " ".join(path)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _with_json(inner, (*path, name))


def test_every_command_that_has_json_is_in_the_table() -> None:
    assert set(_with_json(get_command(make_app([])))) == set(TABLE) | ELSEWHERE


@pytest.mark.parametrize("command", TABLE)
def test_standard_output_is_one_json_document(run_here: Run, place: Place, command: str) -> None:
    status, arguments, expected = TABLE[command]
    found, out, err = run_here(*command.split(), *arguments(place), "--json")
    assert found == status, err
    value = json.loads(out)
    assert {name: value[name] for name in expected} == expected
    assert out.isascii()


@pytest.mark.parametrize("command", ALWAYS)
def test_what_is_json_anyway(run_here: Run, place: Place, command: str) -> None:
    status, out, err = run_here(*command.split(), *ALWAYS[command](place))
    assert (status, err) == (0, "")
    assert json.loads(out)


def test_a_refusal_is_a_result(run_here: Run, place: Place) -> None:
    status, out, err = run_here("verify", place / "bad.aer", "--policy", place / "auditor.json", "--json")
    assert (status, err) == (1, "")
    value = json.loads(out)
    assert (value["ok"], value["code"]) == (False, "NONCE_MISSING")
    assert value["docs"] == "docs/errors.md#receipt-codes"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("inspect", "auditor.json"), (1, "inspect.unknown", "docs/errors.md#inspect")),
        (("keygen", "owner.key"), (2, "key.exists", "docs/errors.md#key")),
        (("inspect", "nothing"), (1, None, None)),
        (("image", "diff", "a.eif", "pcrs.json"), (2, "image.truncated", "docs/errors.md#image")),
    ],
)
def test_an_error_is_one_line_of_json_on_standard_error(
    run: Run,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    told: tuple[int, str | None, str | None],
) -> None:
    status, code, docs = told
    monkeypatch.chdir(place.folder)
    found, out, err = run(*arguments, "--json")
    assert (found, out, err.count("\n")) == (status, "", 1)
    value = json.loads(err)
    assert value.keys() == {"error", "code", "docs"}
    assert (value["code"], value["docs"]) == (code, docs)
    assert arguments[-1] in value["error"]
    found, out, err = run(*arguments)
    assert (found, out) == (status, "")
    assert err == f"ephemeralml: {value['error']}" + (f" [{code}] {docs}\n" if code else "\n")


def test_a_name_after_two_dashes_is_no_option(run: Run) -> None:
    status, _, err = run("inspect", "--", "--json")
    assert (status, err) == (1, "ephemeralml: --json: No such file or directory\n")


def test_embed_without_a_file_has_no_summary(run: Run, tmp_path: Path) -> None:
    Policy(measurements=[Measurements(**{name.lower(): value for name, value in PCRS.items()})]).save(tmp_path / "p")
    status, out, err = run("embed", "a", "--policy", tmp_path / "p", "--json")
    assert (status, out) == (2, "")
    assert "--out" in err
