"""`ollamactl route calibrate`: a tier is asked what is known, and what comes of it is used by the gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.app.calibration_file import calibration_from
from orchestrator.app.rules import rules_from
from orchestrator.cli.main import main
from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings
from orchestrator.settings.checks import check
from orchestrator.settings.file import load
from tests.gateway.asking import ask
from tests.gateway.judged import Judged, Plan, judged
from tests.gateway.played import played, pool_of

CONFIG = """
models: {small: {}, big: {}}
tiers:
  low: {model: small}
  high: {model: big}
routes:
  r: {primary: low, escalate_to: high, escalate_if: [confidence_below: 0.5], cache: 'off'}
"""


def knows_even_numbers(instance: Judged) -> None:
    """Of even numbers it says what is asked, and is sure; of odd ones neither."""
    for n in range(120):
        instance.plans[f"number{n}"] = Plan([(str(n), -0.1)]) if n % 2 == 0 else Plan([("no", -1.5)])


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    return result.exit_code, result.output


async def test_a_tier_is_calibrated_by_its_own_answers_and_judged_by_them(tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    asked = [{"id": f"q{n}", "prompt": f"number{n} please", "scorer": "exact", "answer": str(n)} for n in range(120)]
    questions.write_text("\n".join(map(json.dumps, asked)))
    config, out = tmp_path / "cluster.yaml", tmp_path / "low.json"
    config.write_text(CONFIG)
    async with judged(2) as (small, big):
        knows_even_numbers(small)
        pools = [pool_of("small", [small.port], slots=8), pool_of("big", [big.port])]
        async with played(tmp_path, load(config), pools) as world:
            endpoint = world.url.removeprefix("http://")
            arguments = ("route", "calibrate", "--set", questions, "--tier", "low", "--out", out)
            told = await asyncio.to_thread(run, *arguments, "--config", config, "--endpoint", endpoint)
            assert told[0] == 0, told[1]
            assert "120 answers of low, 50% right" in told[1]
            assert len(small.asked) == 120
        made = calibration_from(out)
        assert made.confidence([-0.1]) > 0.9
        assert made.confidence([-1.5]) < 0.1
        config.write_text(CONFIG.replace("{model: small}", "{model: small, calibration: low.json}"))
        again = tmp_path / "again"
        again.mkdir()
        async with played(again, load(config), pools) as world:
            sure = await ask(world.url, "/api/chat", "number2 please", model="r", stream=True)
            unsure = await ask(world.url, "/api/chat", "number3 please", model="r", stream=True)
            assert (sure.headers["X-Tier"], unsure.headers["X-Tier"]) == ("low", "high")


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([{"id": "a", "prompt": "x", "scorer": "exact", "answer": "y"}], "has 1 questions; a curve wants 100"),
        (["nonsense"], "questions.jsonl:1: "),
    ],
)
def test_what_makes_no_calibration_is_said(tmp_path: Path, lines: list[Any], wanted: str):
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, lines)))
    code, told = run("route", "calibrate", "--set", questions, "--tier", "low", "--out", tmp_path / "out.json")
    assert code != 0
    assert wanted in " ".join(told.split())


def test_a_file_that_is_no_calibration_is_refused_by_its_name(tmp_path: Path):
    for content, wanted in (("{", "is not JSON"), ("[]", "statistic: "), ('{"statistic": "mean"}', "early_tokens: ")):
        path = tmp_path / "c.json"
        path.write_text(content)
        told = {"tiers": {"low": {"model": "small", "calibration": str(path)}}}
        with pytest.raises(SettingsError, match=f"c.json: {wanted}"):
            rules_from(ClusterSettings.model_validate(told))
        path.unlink()


def test_a_calibration_that_nobody_goes_by_is_a_mistake():
    tiers = {"small": {"model": "a", "calibration": "c.json"}, "full": {"model": "b"}}
    settings = ClusterSettings.model_validate(
        {"models": {"a": {}, "b": {}}, "tiers": tiers, "routes": {"auto": {}}},
    )
    (problem,) = check(settings)
    assert problem.path == ("tiers", "small", "calibration")
