"""`kms policy`, `kms check` and `kms create-key` as a user types them, against a running KMS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.cli.kms import ACCOUNT, HOST, OWNER
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.kms.policy import default_policy
from ephemeralml.host.kms_keys import KmsKeys

from .conftest import Run

CREDENTIALS = [Credential("AKIDOWNER", "owner-secret", OWNER), Credential("AKIDHOST", "host-secret", HOST)]
ADMIN = "arn:aws:iam::000000000000:role/admin"
ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"
CHECK_FILE = ("check", "--account", ACCOUNT, "--file")


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command line in this process, by a user with the owner's credentials: (exit status, output, errors)."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS[0].access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS[0].secret_access_key)

    return partial(run, "kms")


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    store = tmp_path_factory.mktemp("kms") / "kms.sqlite"
    with KmsServer(store=store, credentials=CREDENTIALS, roots=[]) as server:
        yield server


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    path = tmp_path / "pcrs.json"
    path.write_text(json.dumps({f"PCR{index}": f"{index + 1}{index + 1}" * 48 for index in range(3)}))
    return path


def create(kms: KmsServer, policy: str) -> str:
    return KmsKeys(region="us-east-1", endpoint_url=kms.url).create(policy, description="model")


def test_a_printed_policy_is_checked_as_a_file_and_as_a_key(
    run: Run, kms: KmsServer, measurements: Path, tmp_path: Path
) -> None:
    status, policy, _ = run(
        *("policy", "--measurements", measurements, "--role", HOST),
        *("--admin", OWNER, "--owner", OWNER, "--encryption-context", "ephemeralml:model=tiny"),
    )
    assert status == 0
    path = tmp_path / "policy.json"
    path.write_text(policy)
    status, out, _ = run("check", "--file", path, "--account", ACCOUNT, "--measurements", measurements, "--role", HOST)
    assert (status, out.splitlines()[-1]) == (0, "no hole found")
    arn = create(kms, policy)
    status, out, _ = run("check", arn, "--measurements", measurements, "--role", HOST, "--endpoint", kms.url)
    assert (status, out.splitlines()[-1]) == (0, "no hole found")


def test_a_key_is_to_be_in_the_account_that_is_named(run: Run, measurements: Path, tmp_path: Path) -> None:
    governed = "arn:aws:iam::444455556666:role/"
    _, policy, _ = run(
        *("policy", "--measurements", measurements, "--role", HOST),
        *("--admin", f"{governed}admin", "--owner", f"{governed}owner"),
    )
    path = tmp_path / "policy.json"
    path.write_text(policy)
    check = ("check", "--file", path, "--measurements", measurements, "--role", HOST, "--account")
    status, out, _ = run(*check, "444455556666")
    assert (status, out.splitlines()[-1]) == (0, "no hole found")
    status, out, _ = run(*check, ACCOUNT)
    assert status == 1
    assert "[foreign_governor]" in out


def test_a_key_made_by_create_key_has_no_hole(run: Run, kms: KmsServer, measurements: Path) -> None:
    status, arn, _ = run("create-key", "--measurements", measurements, "--endpoint", kms.url)
    assert status == 0
    assert run("check", arn.strip(), "--measurements", measurements, "--endpoint", kms.url)[0] == 0


def test_the_default_policy_of_kms_is_full_of_holes(run: Run, kms: KmsServer, measurements: Path) -> None:
    arn = create(kms, default_policy("000000000000"))
    check = ("check", arn, "--measurements", measurements, "--endpoint", kms.url)
    status, out, _ = run(*check)
    assert status == 1
    assert "HOLE  statement 1 (Enable IAM User Permissions): " in out
    assert "[anybody]" in out
    status, out, _ = run(*check, "--json")
    report: dict[str, Any] = json.loads(out)
    assert (status, report["ok"]) == (1, False)
    assert {"anybody", "unattested", "grant", "reencrypt"} <= {hole["code"] for hole in report["holes"]}
    assert {item["code"] for item in report["notes"]} == {"not_released"}


def test_a_policy_that_may_not_be_read(
    run: Run, kms: KmsServer, measurements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_owner = json.loads(default_policy("000000000000"))
    only_owner["Statement"][0]["Principal"]["AWS"] = OWNER
    arn = create(kms, json.dumps(only_owner))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS[1].access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS[1].secret_access_key)
    status, out, err = run("check", arn, "--measurements", measurements, "--endpoint", kms.url)
    assert (status, out) == (1, "")
    assert "[kms.access_denied]" in err


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("check",), 2, "measurements"),
        (("check", "--measurements", "MEASURED"), 2, "--file"),
        (("check", ARN, "--file", "x", "--measurements", "MEASURED"), 2, "--file"),
        (("check", "alias/model", "--measurements", "MEASURED"), 1, "kms.key_arn"),
        (("check", ARN, "--measurements", "MEASURED", "--endpoint", "http://127.0.0.1:9"), 1, "kms.unreachable"),
        (("check", "--file", "MEASURED", "--measurements", "MEASURED"), 2, "--account"),
        (("check", ARN, "--account", ACCOUNT, "--measurements", "MEASURED"), 2, "--account"),
        (("check", "--file", "MEASURED", "--account", "mine", "--measurements", "MEASURED"), 2, "12 digits"),
        ((*CHECK_FILE, "MEASURED", "--measurements", "MEASURED"), 2, "key_policy.malformed"),
        ((*CHECK_FILE, "MEASURED.none", "--measurements", "MEASURED"), 1, "No such file"),
        ((*CHECK_FILE, "MEASURED", "--measurements", "NOTHING"), 2, "policy.measurements"),
        (("create-key", "--measurements", "MEASURED", "--endpoint", "http://127.0.0.1:9"), 1, "kms.unreachable"),
    ],
)
def test_misuse(
    run: Run, measurements: Path, tmp_path: Path, arguments: tuple[str, ...], *, status: int, word: str
) -> None:
    (tmp_path / "nothing").write_text("{}")
    paths = {"MEASURED": str(measurements), "NOTHING": str(tmp_path / "nothing"), "MEASURED.none": "/nowhere/none"}
    ended, out, err = run(*(paths.get(argument, argument) for argument in arguments))
    assert (ended, out) == (status, "")
    assert word in err


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"--admin": HOST}, "key_policy.separation"),
        ({"--role": "host"}, "key_policy.principal"),
        ({"--encryption-context": "nothing"}, "NAME=VALUE"),
    ],
)
def test_policy_misuse(run: Run, measurements: Path, changes: dict[str, str], word: str) -> None:
    given = {"--measurements": str(measurements), "--role": HOST, "--admin": ADMIN, "--owner": OWNER, **changes}
    status, out, err = run("policy", *(part for pair in given.items() for part in pair))
    assert (status, out) == (2, "")
    assert word in err
