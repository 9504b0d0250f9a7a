"""What is said of the answer cache: what is on, what is off and why, and what is odd about it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.gateway.cache_words import MEANT, hitless, layers, lines
from orchestrator.gateway.live import Rules
from orchestrator.settings import ClusterSettings

MODELS = {"m": {}}
TIERS = {"small": {"model": "m"}, "full": {"model": "m"}}


def rules(**changes: Any) -> Rules:
    return rules_from(ClusterSettings.model_validate({"models": MODELS, **changes}))


def states(told: Rules) -> dict[str, bool]:
    return {each.name: each.is_on for each in layers(told)}


def test_each_layer_says_for_itself_whether_it_is_on_and_why():
    assert states(rules()) == {"faq": False, "routes": False, "paraphrases": False, "models": True}
    route = rules(tiers=TIERS, routes={"auto": {"cache": "off"}}, cache={"models": "off"})
    assert states(route) == {"faq": False, "routes": False, "paraphrases": False, "models": False}
    assert all(each.why for each in layers(route))
    assert set(states(rules(cache={"enabled": False})).values()) == {False}


@pytest.mark.parametrize(("cache", "is_on"), [("all", True), ("deterministic", True), ("off", False)])
def test_answers_in_other_words_are_told_with_the_routes_that_give_them(cache, is_on):
    told = rules(tiers=TIERS, routes={"auto": {"cache_paraphrases": True, "cache": cache}, "own": {}})
    (layer,) = [each for each in layers(told) if each.name == "paraphrases"]
    assert (layer.is_on, "auto" in layer.why, "own" in layer.why) == (is_on, True, False)


def test_what_is_logged_at_the_start_names_terms_and_never_a_secret():
    said = "\n".join(lines(rules(cache={"encryption_key": "0123456789abcdef", "max_bytes": 2**20})))
    assert "kept for each API key apart, sealed, in 1 MiB, fresh for 86400 s, in need 3600 s longer" in said
    assert "0123456789abcdef" not in said
    assert "as text" in "\n".join(lines(rules()))


@pytest.mark.parametrize(
    ("now", "word"),
    [
        ({"misses:exact:absent": 99}, ""),
        ({"misses:exact:absent": 100}, "no two of them are the same"),
        ({"misses:exact:drawn": 90, "misses:exact:absent": 10}, "of 90 they ask for no certain answer"),
        ({"misses:exact:absent": 100, "hits:faq:words": 1}, ""),
        ({"misses:faq:no_entry": 1000}, ""),
        ({}, ""),
    ],
)
def test_many_calls_without_one_hit_are_told_with_their_commonest_reason(now, word):
    told = hitless(rules(cache={"warn_after": 100}).cache, {}, now)
    assert bool(told) is bool(word)
    assert word in told


def test_hits_of_before_a_change_of_the_settings_do_not_count():
    since = {"hits:exact:fresh": 7, "misses:exact:absent": 7}
    assert hitless(rules(cache={"warn_after": 10}).cache, since, {**since, "misses:exact:absent": 17})


@pytest.mark.parametrize("changes", [{"enabled": False}, {"warn_after": 0}])
def test_a_cache_that_is_off_is_not_warned_of(changes):
    assert not hitless(rules(cache=changes).cache, {}, {"misses:exact:off": 10_000})


def test_every_reason_that_calls_are_counted_by_is_explained():
    from orchestrator.core.cachekey import Bypass
    from orchestrator.gateway import answer_cache as reasons

    used = {*(each.value for each in Bypass), reasons.ABSENT, reasons.UNREADABLE, reasons.OLD, reasons.ANEW}
    assert {*used, reasons.AWAY} == MEANT.keys()
