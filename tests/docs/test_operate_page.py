"""The operator's page against the code: metrics, the log's events, alerts."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
import yaml  # type: ignore[import-untyped]
from pages import ROOT, code, names, table, tables

from ephemeralml.exposition import Family
from ephemeralml.gateway import metrics as gateway
from ephemeralml.host import metrics as host

PAGE = "docs/operate.md"


@pytest.mark.parametrize(("number", "families"), [(0, host.FAMILIES), (1, gateway.FAMILIES)], ids=["host", "gateway"])
def test_the_metrics_are_those_of_the_page(number: int, families: tuple[Family, ...]) -> None:
    shown = tables(PAGE, "metric", "type", "labels", "meaning")[number]
    assert [(*code(row[0]), row[1], tuple(code(row[2])), row[3]) for row in shown] == [
        (family.name, family.kind, family.labels, family.meaning) for family in families
    ]


def events() -> Iterator[tuple[str, str, set[str] | None]]:
    """Each event of the code, its level, and its fields where they stand beside it."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr="say" | "warn" as way),
                    args=[ast.Constant(value=str(event))],
                    keywords=given,
                ):
                    yield event, {"say": "info", "warn": "warning"}[way], {str(one.arg) for one in given}
                case ast.Dict(keys=[ast.Constant(value="event"), _], values=[ast.Constant(value=str(event)), fields]):
                    told = (
                        {ast.literal_eval(key) for key in fields.keys if key} if isinstance(fields, ast.Dict) else None
                    )
                    yield event, "warning", told


def test_the_events_of_the_log_are_those_of_the_page() -> None:
    shown = {code(row[0])[0]: (row[1], set(code(row[2]))) for row in table(PAGE, "event", "level", "fields")}
    found = list(events())
    assert {event for event, _, _ in found} == shown.keys()
    for event, level, fields in found:
        assert shown[event][0] == level
        assert fields in (None, shown[event][1]), event


def test_the_alerts_are_those_of_the_page() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy/grafana/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    assert names(table(PAGE, "alert", "when")) == [rule["alert"] for rule in group["rules"]]
