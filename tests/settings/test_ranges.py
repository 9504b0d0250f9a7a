"""Numbers of instances that follow their load: their range, and what is foretold."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import parse

AUTO = "models:\n  a: {replicas: auto, %s}\n"
TIERS = "tiers: {small: {model: a%s}, full: {model: a}}\nroutes: {auto: }\n"


@pytest.mark.parametrize(
    "text",
    [
        AUTO % "slots: 2",
        AUTO % "replicas_min: 2, replicas_max: 2",
        AUTO % "hosts: 2, replicas_max: 3",
        AUTO % "slots: 2" + TIERS % "",
        AUTO % "slots: 2" + TIERS % ", share: 0.4" + "demand: {at_once: 20, quiet_s: 60}\n",
        "models: {a: {replicas: 2}}\n" + TIERS % ", share: 0.4",
    ],
)
def test_a_range_and_a_forecast_are_of_ones_choice(text: str) -> None:
    assert parse(text, "cluster.yaml").models["a"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "models:\n  a: {replicas: 2, replicas_max: 4}\n",
            "cluster.yaml:2:34: models.a.replicas_max: only `replicas: auto` has a range; set that or leave this out",
        ),
        (
            "models:\n  a: {replicas: fill, replicas_min: 4}\n",
            "models.a.replicas_min: only `replicas: auto` has a range; set that or leave this out",
        ),
        (
            AUTO % "replicas_min: 3, replicas_max: 2",
            "models.a.replicas_max: at most 2 instances, and 3 at least, leave no number; raise it",
        ),
        (AUTO % "hosts: 3, replicas_max: 2", "at most 2 instances, and 3 at least, leave no number"),
        (
            AUTO % "slots: 2" + TIERS % "" + "demand: {at_once: 20}\n",
            "demand.at_once: says nothing without a `share` of a tier whose model has `replicas: auto`",
        ),
        (
            AUTO % "slots: 2" + TIERS % ", share: 0.4",
            "tiers.small.share: is a share of `demand.at_once`; set that, or leave this out",
        ),
        ("models:\n  a: {replicas: auto, replicas_max: 0}\n", "models.a.replicas_max"),
        (
            "instances: [{url: 'http://a:1'}]\nmodels: {a: {replicas_max: 2}}\n",
            "models.a.replicas_max: is of no use beside `instances`",
        ),
    ],
)
def test_what_leaves_no_number_or_says_nothing_is_refused_with_the_way_out(text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text, "cluster.yaml")
    assert told in str(refused.value)
