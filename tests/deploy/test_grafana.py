"""The dashboard and the alerts ask for what hosts and gateways export, and for no other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ephemeralml.exposition import Family
from ephemeralml.gateway import metrics as gateway
from ephemeralml.host import metrics as host

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "ephemeralml.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RULES = [
    rule
    for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
SHOWN = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPRESSIONS = [*SHOWN, *(rule["expr"] for rule in RULES)]
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count")}
# Prometheus's own, of each page that it reads.
UP = Family("up", "gauge", "", ("job",))
EXPORTED: dict[str, Family] = {
    family.name + suffix: family
    for family in (*host.FAMILIES, *gateway.FAMILIES, UP)
    for suffix in SUFFIXES[family.kind]
}
_SELECTED = re.compile(r"\b(ephemeralml_\w+|up)\b(?:\{([^}]*)\})?")


def labels_of(name: str) -> set[str]:
    """A metric's own, and Prometheus's for the page it came from."""
    return {*EXPORTED[name].labels, "instance", *(["le"] if name.endswith("_bucket") else [])}


def wrong(expression: str) -> list[str]:
    """The metrics and labels of an expression that nobody exports."""
    selected = _SELECTED.findall(expression)
    missing = [name for name, _ in selected if name not in EXPORTED]
    if missing or not selected:
        return missing or ["it asks for nothing"]
    missing = [
        f"{name}.{label}"
        for name, inside in selected
        for label in re.findall(r"(\w+)\s*=", inside)
        if label not in labels_of(name)
    ]
    have = set.union(*(labels_of(name) for name, _ in selected))
    for inside in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        missing += [label for label in inside.split(", ") if label not in have]
    return missing


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_is_exported(expression: str) -> None:
    assert wrong(expression) == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("ephemeralml_no_such", ["ephemeralml_no_such"]),
        ("rate(ephemeralml_stage_seconds_sum[5m])", ["ephemeralml_stage_seconds_sum"]),
        ('ephemeralml_sessions{code="a"}', ["ephemeralml_sessions.code"]),
        ("sum by (reason, code) (ephemeralml_refused_total)", ["code"]),
        ("vector(1)", ["it asks for nothing"]),
    ],
)
def test_one_that_asks_for_more_is_found(expression: str, found: list[str]) -> None:
    assert wrong(expression) == found


@pytest.mark.parametrize("target", [target for panel in PANELS for target in panel["targets"]], ids=lambda t: t["expr"])
def test_a_legend_names_labels_that_are_left(target: dict[str, Any]) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
    left = set(kept[0].split(", ")) if kept else labels_of(_SELECTED.findall(target["expr"])[0][0])
    assert named <= left


def test_every_metric_that_counts_is_a_gauge_or_taken_by_its_growth() -> None:
    for expression in EXPRESSIONS:
        for name, _ in _SELECTED.findall(expression):
            if EXPORTED[name].kind != "gauge":
                assert re.search(rf"(?:rate|increase)\({name}\b", expression), expression


def test_no_panel_lies_on_another() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_reads_every_expression(tmp_path: Path) -> None:
    shown = [re.sub(r"\$instance", ".*", one.replace("$__rate_interval", "1m")) for one in SHOWN]
    rules = [{"record": f"shown:{number}", "expr": one} for number, one in enumerate(shown)]
    (tmp_path / "shown.yaml").write_text(json.dumps({"groups": [{"name": "shown", "rules": rules}]}))
    for file in (tmp_path / "shown.yaml", GRAFANA / "alerts.yaml"):
        done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
