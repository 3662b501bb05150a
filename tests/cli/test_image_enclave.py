"""`ephemeralml image enclave`: an image, its report and its bill of materials agree; what is missing is said."""

from __future__ import annotations

import json
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from eif import make_signer

from ephemeralml import image
from ephemeralml.image.kernel import installed_kernel

from .conftest import Run

_RECIPE = Path(__file__).parents[2] / "deploy" / "image"


@pytest.fixture
def run(run: Run, tmp_path: Path) -> Run:
    """`image enclave` with the inputs of a small one."""
    (tmp_path / "bzImage").write_bytes(b"a kernel")
    (tmp_path / "enclave.json").write_text(json.dumps({"model_owner": "ab" * 32}))
    inputs = ("--configuration", tmp_path / "enclave.json", "--kernel", tmp_path / "bzImage")
    return partial(run, "image", "enclave", *inputs, "--cmdline", "console=ttyS0", "--out", tmp_path / "a.eif")


@pytest.mark.usefixtures("image_cache")
def test_image_report_and_bill_agree(run: Run, tmp_path: Path) -> None:
    signer = make_signer()
    (tmp_path / "key.pem").write_bytes(signer.private)
    (tmp_path / "certificate.pem").write_bytes(signer.certificate)
    signing = ("--private-key", tmp_path / "key.pem", "--signing-certificate", tmp_path / "certificate.pem")
    written = ("--report", tmp_path / "report.json", "--sbom", tmp_path / "sbom.json")
    status, out, err = run("--recipe", _RECIPE, *signing, *written)
    assert (status, err) == (0, "")
    eif = tmp_path / "a.eif"
    pcrs = image.measure_eif(eif)
    assert pcrs.keys() == {"PCR0", "PCR1", "PCR2", "PCR8"}
    assert all(f"{name}  {value}\n" in out for name, value in pcrs.items())

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pcrs"] == pcrs
    assert report["eif_bytes"] == eif.stat().st_size <= 75_000_000
    files = [entry for part in report["ramdisks"] for entry in part["entries"] if "sha256" in entry]
    total = report["total"]
    assert (total["files"], total["bytes"]) == (len(files), sum(entry["bytes"] for entry in files))
    assert total["modules"] == len(report["modules"])
    assert {entry["path"] for entry in files if "x" in entry["mode"]} == {
        "/init", "/usr/bin/python3.13", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    }  # fmt: skip
    assert "ephemeralml.enclave.server" in report["modules"]
    configuration = next(entry for entry in files if entry["path"] == "/app/configuration.json")

    bill = json.loads((tmp_path / "sbom.json").read_text())
    properties = {item["name"]: item["value"] for item in bill["metadata"]["component"]["properties"]}
    assert properties == {f"ephemeralml:{name}": value for name, value in pcrs.items()}
    listed = [line for name in ("base.debs", "wheels.txt") for line in (_RECIPE / name).read_text().splitlines()]
    for component in bill["components"]:
        for digest in component.get("hashes", []):
            kernel = digest["content"] == sha256(b"a kernel").hexdigest()
            assert kernel or any(digest["content"] in line for line in listed)

    # Spelled otherwise, and signed by nobody: the same image.
    (tmp_path / "enclave.json").write_text(json.dumps({"issuer": "ephemeralml", "model_owner": "AB" * 32}, indent=7))
    status, out, err = run("--recipe", _RECIPE, "--report", tmp_path / "report.json", "--json")
    assert (status, err) == (0, "")
    said = json.loads(out)
    assert (said["image"], said["bytes"]) == (str(eif), eif.stat().st_size)
    assert said["ramdisks"]["total"] == {name: total[name] for name in said["ramdisks"]["total"]}
    assert said["pcrs"] == image.measure_eif(eif) == {name: value for name, value in pcrs.items() if name != "PCR8"}
    again = json.loads((tmp_path / "report.json").read_text())
    assert [part["entries"] for part in again["ramdisks"]] == [part["entries"] for part in report["ramdisks"]]
    assert configuration in again["ramdisks"][1]["entries"]


def test_a_kernel_that_is_not_there_and_one_without_its_command_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ephemeralml.image.kernel.BLOBS", tmp_path / "nowhere")
    monkeypatch.setattr(installed_kernel, "__defaults__", (tmp_path / "nowhere",))
    status, _, err = run("--recipe", _RECIPE, "--kernel", "aws", "--cmdline", "")
    assert (status, "not installed" in err) == (2, True)
    assert run("--recipe", _RECIPE, "--cmdline", "")[0] == 2
    assert run("--recipe", _RECIPE, "--kernel", "own")[0] == 2


def test_what_is_missing_is_said(run: Run, tmp_path: Path) -> None:
    status, _, err = run("--recipe", tmp_path / "nowhere")
    assert (status, "nowhere/base.debs: No such file" in err) == (1, True)
    assert run("--recipe", _RECIPE, "--private-key", tmp_path / "key.pem")[0] == 2
    (tmp_path / "enclave.json").write_text("{}")
    status, _, err = run("--recipe", _RECIPE)
    assert (status, "[configuration.malformed]" in err) == (2, True)
    assert not (tmp_path / "a.eif").exists()
