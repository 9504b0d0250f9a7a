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
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in

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


def complaints(said: bytes) -> list[str]:
    """What `promtool check metrics` says of metrics of ours."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: tests/system_packages.sh installs it (package prometheus)")
    done = subprocess.run([promtool, "check", "metrics"], input=said, capture_output=True, check=False)
    return [line for line in (done.stdout + done.stderr).decode().splitlines() if "olm_" in line]


def test_what_a_worker_says_of_itself_is_as_prometheus_wants_it() -> None:
    assert complaints(telemetry.exposition()) == []


async def test_what_a_gateway_says_after_calls_is_so_too_and_grows_by_nothing_that_callers_make_up(
    tmp_path: Path,
) -> None:
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "cache": {"enabled": False}})

    async def series(world: Played) -> set[str]:
        said = (await get(world.url, "/metrics")).body
        assert complaints(said) == []
        return {line.rpartition(" ")[0] for line in said.decode().splitlines() if line.startswith("olm_")}

    async def ask_all(world: Played, word: str) -> None:
        headers = {"X-Session-Id": word, "User-Agent": word, "X-Request-Id": word, "Cache-Control": word}
        for model in ("m", word):
            for stream in (True, False):
                more = {"stream": stream, "options": {"num_ctx": 1, "num_gpu": 1, word: 1}, "user": word}
                await ask(world.url, "/api/chat", word, model=model, headers=headers, **more)
                await ask(world.url, "/v1/chat/completions", word, model=model, headers=headers, stream=stream)

    async with standing_in(1) as (instance,), played(tmp_path, settings, [pool_of("m", [instance.port])]) as world:
        await ask_all(world, "one")
        before = await series(world)
        assert {'olm_token_seconds_count{tier="m"}', 'olm_overhead_seconds_count{tier="m"}'} <= before
        for word in ("two", "three", "four"):
            await ask_all(world, word)
        assert await series(world) == before
