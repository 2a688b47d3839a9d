"""The documented metrics, the alert rules and the dashboard speak of what is there. `scripts/test-page` asks Prometheus itself."""

import json
import re
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
RULES = yaml.safe_load((DOCS / "monitoring/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DOCS / "monitoring/grafana.json").read_text())
SOURCE = (Path(__file__).parents[2] / "cbk/page/metrics.py").read_text()


def documented():
    rows = re.findall(r"^\| (`cbk_.*?) \| ", (DOCS / "metrics.md").read_text(), flags=re.MULTILINE)
    return set(re.findall(r"`(cbk_\w+)", " ".join(rows)))


def named(text):
    return set(re.findall(r"\bcbk_[a-z_]+\b", text))


def made():
    names = re.findall(r'_gauges?\(\s*"(\w+)"|\("(bucket_\w+)"', SOURCE)
    return {f"cbk_{first or second}" for first, second in names} | {"cbk_info", "cbk_bad_copies_total"}


def test_metrics_that_are_made_are_those_that_are_documented():
    assert made() == documented()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_goes_by_documented_metrics_and_says_what_to_do(rule):
    assert named(rule["expr"]) <= documented()
    assert {"summary", "description"} <= set(rule["annotations"])
    assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_panel_shows_documented_metrics(panel):
    expressions = [target["expr"] for target in panel["targets"]]
    assert all(named(expression) and named(expression) <= documented() for expression in expressions)


def test_panels_do_not_overlap():
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    taken = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
