"""Alerts go off when they should, and ask, as the dashboard does, for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import telemetry

ROOT = Path(__file__).parents[2]
FILES = ROOT / "ansible" / "roles" / "monitoring" / "files"
RULES, DASHBOARD = FILES / "ollamactl.rules.yml", FILES / "ollamactl.dashboard.json"
TRIED = Path(__file__).with_name("alerts.yml")

_NAME = re.compile(r"\bolm_[a-z_]+")
_LABELS = re.compile(r"\bby \(([a-z_, ]+)\)")
_OF_SERIES = {"le", "instance", "job"}


def known() -> dict[str, set[str]]:
    """Every series that a worker may say, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(telemetry).values():
        if hasattr(metric, "_labelnames"):
            for name in (metric._name, *(f"{metric._name}_{end}" for end in ("total", "bucket", "sum", "count"))):
                found[name] = set(metric._labelnames)
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [each["expr"] for each in rules()] + [target["expr"] for each in panels for target in each["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_of_prometheus_exists(expression: str) -> None:
    series = known()
    names = _NAME.findall(expression)
    assert set(names) <= set(series)
    labels = {label for several in _LABELS.findall(expression) for label in several.split(", ")} - _OF_SERIES
    if names:
        assert labels <= set.union(*(series[name] for name in names))


def test_every_metric_is_on_the_dashboard_or_sets_off_an_alert() -> None:
    shown = " ".join(expressions())
    hidden = {
        each._name for each in vars(telemetry).values() if hasattr(each, "_labelnames") and each._name not in shown
    }
    # Their sums are on it: one by layer and reason, one as bytes.
    assert hidden == {"olm_faq_answers", "olm_cache_answers"}


def test_every_alert_says_how_bad_it_is_and_is_tried() -> None:
    tried = {
        case["alertname"] for test in yaml.safe_load(TRIED.read_text())["tests"] for case in test["alert_rule_test"]
    }
    assert {each["alert"] for each in rules()} == tried
    assert {each["labels"]["severity"] for each in rules()} == {"page", "ticket"}


def test_alerts_go_off_by_what_they_are_for_and_by_nothing_else(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: tests/system_packages.sh installs it (package prometheus)")
    for each in (RULES, TRIED):
        shutil.copy(each, tmp_path)
    for arguments in (("check", "rules", RULES.name), ("test", "rules", TRIED.name)):
        done = subprocess.run([promtool, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_worker_says_of_itself_is_as_prometheus_wants_it() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: tests/system_packages.sh installs it (package prometheus)")
    said = telemetry.exposition()
    done = subprocess.run([promtool, "check", "metrics"], input=said, capture_output=True, check=False)
    of_ours = [line for line in (done.stdout + done.stderr).decode().splitlines() if line.startswith("olm_")]
    assert of_ours == []
