"""What a host tells Prometheus: each metric is declared, and no enclave fills it with series of its own."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from samples import IDLE, OWNER, make_manifest

from ephemeralml.errors import EphemeralMLError
from ephemeralml.exposition import read
from ephemeralml.host.metrics import FAMILIES, HostMetrics
from ephemeralml.host.relay import Relay


def full() -> str:
    """Every metric has a sample."""
    metrics = HostMetrics()
    relay = Relay(None, on_closed=lambda _: None)
    failure = EphemeralMLError("why", code="enclave.ended")
    metrics.ready(make_manifest().sign(OWNER))
    metrics.restarted(failure)
    metrics.kept(failure)
    metrics.released("broker")
    metrics.failed("kms.throttled")
    metrics.reported(IDLE)
    return metrics.render(relay, serving=True)


def test_every_metric_that_is_declared_is_written_under_its_declaration() -> None:
    lines = full().splitlines()
    for family in FAMILIES:
        assert f"# TYPE {family.name} {family.kind}" in lines
        assert any(line.startswith(family.name) for line in lines)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == full().count("# TYPE")


def test_a_host_that_has_just_started_has_counters_to_grow_and_no_ages() -> None:
    found = read(HostMetrics().render(Relay(None, on_closed=lambda _: None), serving=False))
    assert found["ephemeralml_enclave_ready", ()] == 0
    assert found["ephemeralml_relay_refused_total", (("code", "unavailable"),)] == 0
    assert found["ephemeralml_refused_total", (("reason", "evidence"),)] == 0
    assert found["ephemeralml_stage_seconds_bucket", (("le", "+Inf"), ("stage", "engine"))] == 0
    assert not [name for name, _ in found if name.endswith("timestamp_seconds")]


def test_there_is_no_sum_of_times() -> None:
    assert not [name for name, _ in read(full()) if name.endswith("_sum")]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_finds_nothing_to_say() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=full(), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
