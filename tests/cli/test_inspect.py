"""`ephemeralml inspect`: it shows what is inside a file, whoever wrote that, as text and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ephemeralml.cli import main
from ephemeralml.receipts import Claims, EnclaveMeasurements, issue_receipt

EVIL = "\x1b[2J\nverified: yes\u202e\x7f"


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    pcrs = {f"pcr{index}": b"\x01" * 48 for index in (0, 1, 2, 3, 4, 8)}
    claims = Claims(
        iss=EVIL,
        iat=1_760_000_000,
        cti=b"\x01" * 16,
        model_id=EVIL,
        model_version=EVIL,
        model_hash=b"\x11" * 32,
        request_hash=b"\x22" * 32,
        response_hash=b"\x33" * 32,
        attestation_doc_hash=b"\x44" * 32,
        enclave_measurements=EnclaveMeasurements(measurement_type="nitro-pcr", **pcrs),
        policy_version=EVIL,
        sequence_number=5,
        execution_time_ms=12,
        memory_peak_mb=310,
        security_mode="evaluation",
    )
    path = tmp_path / "a.receipt"
    path.write_bytes(issue_receipt(claims, Ed25519PrivateKey.generate()))
    return path


def inspect(path: Path, *options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["ephemeralml", "inspect", str(path), *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in {0, None}
    return capsys.readouterr().out


def test_text_in_a_receipt_commands_no_terminal_and_begins_no_line(
    receipt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = inspect(receipt, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert sum("?[2J?verified: yes??" in line for line in lines) == 4
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("verified") for line in lines)
    said = inspect(receipt, "--json", monkeypatch=monkeypatch, capsys=capsys)
    assert json.loads(said)["model_id"] == EVIL
    assert "\x1b" not in said
