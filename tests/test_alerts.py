"""Alerts, dashboard and runbook: what they ask for is exported, and each knows of the others.

promtool, where it is installed, also runs the alerts over made series: deploy/prometheus/alerts_test.yaml.
"""

from __future__ import annotations

import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest
from deploy_files import DEPLOY, OPERATIONS, composed, dashboard, documents, metrics, ran, rules, shown_queries


def test_promtool_finds_the_alerts_right_and_that_they_fire():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed")
    for check in (("check", "config", "prometheus.yaml"), ("test", "rules", "alerts_test.yaml")):
        code, told = ran(promtool, *check[:2], DEPLOY / "prometheus" / check[2])
        assert code == 0, told


def test_every_metric_of_alerts_and_dashboard_is_exported_and_every_alert_is_promql():
    documented = set(re.findall(r"^\| `(nearcart_\w+)` \|", OPERATIONS, re.MULTILINE))
    used = set().union(*(metrics(each["expr"]) for each in rules()), *map(metrics, shown_queries())) - {"up"}
    assert used == documented, "the dashboard shows everything"


def test_every_alert_has_a_section_in_the_runbook_and_the_other_way_round():
    runbook = OPERATIONS.partition("\n## Runbook\n")[2].partition("\n## ")[0]
    sections = re.findall(r"^### (\w+)\n\n((?:(?!^###).*\n?)+)", runbook, re.MULTILINE)
    assert [name for name, _ in sections] == [rule["alert"] for rule in rules()]
    for name, text in sections:
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert text.count(part) == 1, f"{name}: {part}"


def test_every_alert_says_how_urgent_it_is_and_what_happened():
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_every_alert_that_a_panel_names_exists_and_alerts_are_tested():
    named = set(re.findall(r"\bNearcart[A-Z]\w+", json.dumps(dashboard())))
    alerts = {each["alert"] for each in rules()}
    assert named <= alerts
    (tested,) = documents(DEPLOY / "prometheus" / "alerts_test.yaml")
    fired = {each["alertname"] for test in tested["tests"] for each in test["alert_rule_test"] if "exp_alerts" in each}
    assert fired == alerts


def test_panels_do_not_overlap_and_fill_whole_lines():
    panels = dashboard()["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    places = {
        f"{each['id']} {each['title']}": {
            (each["gridPos"]["x"] + dx, each["gridPos"]["y"] + dy)
            for dx in range(each["gridPos"]["w"])
            for dy in range(each["gridPos"]["h"])
        }
        for each in panels
    }
    for (one, ours), (other, theirs) in combinations(places.items(), 2):
        assert not ours & theirs, f"{one} and {other}"
    covered = set().union(*places.values())
    assert covered == {(x, y) for x in range(24) for y in range(max(y for _, y in covered) + 1)}


def test_every_panel_says_what_it_shows_and_asks_the_source_that_is_provisioned():
    (sources,) = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")
    board = dashboard()
    (variable,) = (each for each in board["templating"]["list"] if each["name"] == "datasource")
    assert [each["uid"] for each in sources["datasources"]] == [variable["current"]["value"]]
    for panel in (each for each in board["panels"] if each["type"] != "row"):
        assert panel["description"]
        assert panel["targets"]
        assert {each["datasource"]["uid"] for each in [panel, *panel["targets"]]} == {"${datasource}"}
    (provided,) = documents(DEPLOY / "grafana" / "provisioning" / "dashboards" / "nearcart.yaml")
    (mounted,) = (each.split(":") for each in composed()["grafana"]["volumes"] if "dashboard.json" in each)
    assert Path(mounted[1]).parent == Path(provided["providers"][0]["options"]["path"])
