"""A call goes down the chain of its route: past targets that are used up, failing or gone, and back later."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.breaker import Ended
from orchestrator.gateway.breakers import Breakers
from orchestrator.gateway.live import Live
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.gateway.test_escalating import until_counted
from tests.waiting import until

FRESH = {"Cache-Control": "no-store"}
EASY, HARD = "hello", "Prove step by step that the sum of two odd numbers is even, then write a Python program for it."
UNKNOWN = "Zwyrp qlox the frindle {}, vextan moriq plof"
POOLS = ("little", "middle", "big")
BREAKER = {"at_least": 2, "open_s": 0.3, "open_most_s": 0.6}
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


def settings_with(**changes: Any) -> ClusterSettings:
    """Three tiers on three pools, each the next one's backup, and a route over the outer two."""
    tiers = {
        "small": {"model": "little", "backup": "spare"},
        "spare": {"model": "middle", "backup": "full"},
        "full": {"model": "big"},
    }
    for name, more in changes.pop("tiers", {}).items():
        tiers[name] = {**tiers[name], **more}
    whole = {
        "models": {name: {} for name in POOLS},
        "tiers": tiers,
        "routes": {"auto": {}},
        "cache": {"enabled": False},
    }
    return ClusterSettings.model_validate({**whole, **changes})


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before three stand-ins: the pools little, middle and big."""
    async with AsyncExitStack() as stack:

        async def begin(**changes: Any) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(3))
            pools = [pool_of(name, [each.port]) for name, each in zip(POOLS, instances, strict=True)]
            return await stack.enter_async_context(played(tmp_path, settings_with(**changes), pools)), instances

        yield begin


async def ask_auto(world: Played, text: str = EASY, *, model: str = "auto", **more: Any) -> Reply:
    headers = {**FRESH, **more.pop("headers", {})}
    return await ask(world.url, "/api/chat", text, model=model, headers=headers, stream=False, **more)


async def until_answered_by(world: Played, tier: str) -> Reply:
    return await until(lambda: ask_auto(world), holds=lambda reply: reply.headers["X-Tier"] == tier)


# --- headers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_says_which_route_and_which_rule_it_came_by(start):
    world, _ = await start()
    for path in ("/api/chat", "/v1/chat/completions"):
        for is_stream in (True, False):
            reply = await ask(world.url, path, HARD, model="auto", headers=FRESH, stream=is_stream)
            assert (reply.status, reply.headers["X-Route"], reply.headers["X-Tier"]) == (200, "auto", "full")
            assert re.fullmatch(r"TASK of difficulty \d+, at or above 5: full", reply.headers["X-Route-Why"])
    direct = await ask_auto(world, model="little")
    assert "X-Route" not in direct.headers


# --- handing over ----------------------------------------------------------------------------------------------------


async def test_a_tier_that_is_used_up_hands_over_to_its_backup_and_answers_again_when_it_may(start):
    world, (little, middle, _) = await start(tiers={"small": {"limits": {"concurrent": 1}}})
    little.does = "wait"
    first = asyncio.create_task(ask_auto(world))
    await little.until(1)
    handed = await ask_auto(world)
    assert (handed.status, handed.headers["X-Tier"]) == (200, "spare")
    assert handed.headers["X-Route-Why"].endswith("; small used up (tier concurrent)")
    little.gate.set()
    assert (await first).headers["X-Tier"] == "small"
    assert (await until_answered_by(world, "small")).status == 200
    assert len(middle.asked) >= 1
    await world.until_idle()


async def test_a_target_that_fails_is_left_alone_tried_by_one_call_and_comes_back_by_itself(start):
    world, (little, _, _) = await start(tiers={"small": {"breaker": BREAKER}})
    little.does = "own-500"
    for _ in range(2):
        reply = await ask_auto(world)
        assert (reply.status, reply.headers["X-Tier"]) == (200, "spare")
        assert reply.headers["X-Route-Why"].endswith("; small failed")

    async def is_left_alone() -> bool:
        spared = len(little.asked)
        why = (await ask_auto(world)).headers["X-Route-Why"]
        assert why.endswith(("; small left alone", "; small failed"))
        assert len(little.asked) == spared + why.endswith("; small failed")  # the time was over: it was tried
        return why.endswith("; small left alone")

    await until(is_left_alone)
    told = (await get(world.url, "/status.json")).json()["tiers"]["small"]
    assert told["state"] in ("open", "half-open")
    little.does = ""
    await until_answered_by(world, "small")
    told = (await get(world.url, "/status.json")).json()["tiers"]["small"]
    assert told["state"] == "closed"
    assert "small fails or is slow: left alone for 0" in world.logs()
    assert "small is well again" in world.logs()


async def test_a_target_that_answers_too_late_counts_as_failing(start):
    world, (little, _, _) = await start(tiers={"small": {"breaker": {**BREAKER, "slow_s": 0.001, "open_s": 60}}})
    for _ in range(2):
        little.does = "wait"
        little.gate.clear()
        slow = asyncio.create_task(ask_auto(world))
        await little.until(1)
        little.gate.set()
        assert (await slow).headers["X-Tier"] == "small"
    assert (await ask_auto(world)).headers["X-Route-Why"].endswith("; small left alone")


async def test_a_chain_is_as_long_as_configured(start):
    world, (little, middle, big) = await start()
    await little.stop()
    await middle.stop()
    reply = await ask_auto(world)
    assert (reply.status, reply.headers["X-Tier"]) == (200, "full")
    assert re.search(r"; small (failed|away); spare (failed|away)$", reply.headers["X-Route-Why"])
    assert len(big.asked) == 1


async def test_only_when_every_backup_is_gone_is_a_caller_told_to_come_back(start):
    limited = {"limits": {"rpm": 1}}
    world, _ = await start(tiers={"small": limited, "spare": limited, "full": limited})
    for tier in ("small", "spare", "full"):
        assert (await ask_auto(world)).headers["X-Tier"] == tier
    reply = await ask_auto(world)
    assert reply.status == 503
    assert 1 <= int(reply.headers["Retry-After"]) <= 61
    assert "small used up (tier rpm), spare used up (tier rpm), full used up (tier rpm)" in reply.json()["error"]


async def test_targets_that_all_fail_are_told_as_503_and_no_circle_is_gone_round(start):
    world, instances = await start(tiers={"full": {"backup": "small"}})
    for each in instances:
        each.does = "own-500"
    reply = await ask_auto(world)
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.json()["error"] == "no target of auto can answer now: small failed, spare failed, full failed"
    assert [len(each.asked) for each in instances] == [1, 1, 1]
    await world.until_idle()


async def test_a_caller_who_leaves_a_trial_leaves_it_to_the_next(start):
    world, (little, _, _) = await start(tiers={"small": {"breaker": BREAKER}})
    little.does = "own-500"
    for _ in range(2):
        await ask_auto(world)
    little.does = "hang"

    async def begun() -> asyncio.Task[Reply]:
        asked = asyncio.create_task(ask_auto(world))
        await until(lambda: little.active or asked.done())
        return asked

    trial = await until(begun, holds=lambda _: little.active)
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    await little.until(0)
    little.does = ""
    await until_answered_by(world, "small")


# --- what is asked for -----------------------------------------------------------------------------------------------

KEYS = [
    {"name": "support-eu", "secret": "a-secret-of-support"},
    {"name": "sales", "secret": "a-secret-of-the-sales"},
]


TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
MATCHES = {
    "foreign": {"model": "gpt-4*"},
    "lit": {"model": ["lit*"]},
    "team": {"header": {"X-Team": "support*"}},
    "words": {"text": "(?i)^good morning$"},
    "long": {"tokens_from": 50},
    "agents": {"tools": True},
    "forms": {"json_schema": True, "path": "/api/*"},
    "turkish": {"language": "tr"},
}
CALLS = [
    ({"model": "gpt-4o"}, "foreign"),
    ({"model": "little"}, "lit"),
    ({"model": "big"}, None),
    ({"headers": {"X-Team": "Support EU"}}, "team"),
    ({"headers": {"X-Team": "sales"}}, "auto"),
    ({"text": "Good Morning"}, "words"),
    ({"text": "Good Morning", "model": "big"}, None),
    ({"text": "hello " * 50}, "long"),
    ({"tools": [TOOL]}, "agents"),
    ({"format": "json"}, "forms"),
    ({"text": "Türkiye'nin başkenti neresi?"}, "turkish"),
    ({"text": "Türkiye'nin başkenti neresi?", "tools": [TOOL]}, "agents"),
    ({"text": "What is the capital of France?"}, "auto"),
    ({"model": "turkish"}, "turkish"),
]


async def test_a_call_takes_the_first_route_whose_match_holds_and_a_model_named_is_that_model(start):
    routes = {name: {"match": match, "primary": "spare"} for name, match in MATCHES.items()}
    world, _ = await start(routes={**routes, "auto": {}})
    for asked, route in CALLS:
        reply = await ask_auto(world, **asked)
        assert (reply.status, reply.headers.get("X-Route")) == (200, route), asked


async def test_a_route_takes_the_calls_of_keys_but_no_embeddings_and_others_find_no_such_model(start):
    special = {"match": {"key": "support-*", "model": "*"}, "primary": "spare"}
    world, _ = await start(routes={"special": special, "auto": {}}, keys=KEYS)
    for key, model, route in (("a-secret-of-support", "gpt-5", "special"), ("a-secret-of-the-sales", "auto", "auto")):
        reply = await ask_auto(world, model=model, headers={"Authorization": f"Bearer {key}"})
        assert reply.headers["X-Route"] == route
    reply = await ask_auto(world, model="gpt-5", headers={"Authorization": "Bearer a-secret-of-the-sales"})
    assert reply.status == 404
    embedded = await ask(world.url, "/api/embed", "hi", model="little", headers={"X-Api-Key": "a-secret-of-support"})
    assert embedded.status == 200
    assert "X-Route" not in embedded.headers


async def test_an_admin_has_a_tier_of_their_own_choice_answer_alone_and_nobody_else_passes_the_router_by(start):
    admin = {"name": "op", "secret": "a-secret-of-an-admin", "admin": True}
    conditions = {"small": "small", "escalate_to": "full", "escalate_if": [{"length_cut": True}]}
    world, (little, _, big) = await start(routes={"auto": conditions}, keys=[KEYS[0], admin], cache={"enabled": True})
    op = {"Authorization": f"Bearer {admin['secret']}"}

    async def asked_of(tier: str, who: dict[str, str]) -> Reply:
        return await ask(world.url, "/api/chat", EASY, model="auto", stream=False, headers={**who, "X-Tier": tier})

    little.does = "too-long"
    for tier, said in (("full", "one two three"), ("small", "one two"), ("full", "one two three")):
        reply = await asked_of(tier, op)
        assert (reply.status, reply.headers["X-Tier"], reply.text) == (200, tier, said)
        assert reply.headers["X-Route-Why"] == f"asked for by name: {tier}"
    assert (len(little.asked), len(big.asked)) == (1, 2), "no answer is kept, none is doubted"
    await big.stop()
    assert (await asked_of("full", op)).status == 503, "its backup is another tier"
    refused = await asked_of("full", {"Authorization": f"Bearer {KEYS[0]['secret']}"})
    assert (refused.status, "admin" in refused.json()["error"]) == (403, True)
    assert (await asked_of("fall", op)).json()["error"] == "X-Tier: no such tier; tiers are: small, spare, full"
    assert len(little.asked) == 1


# --- doubt -----------------------------------------------------------------------------------------------------------


async def test_a_question_in_doubt_goes_up_as_often_as_its_key_may_and_then_stays_down_and_says_so(start):
    world, _ = await start(routes={"auto": {"unsure_rpm": 2}})
    for number in range(2):
        assert (await ask_auto(world, UNKNOWN.format(number))).headers["X-Tier"] == "full"
    reply = await ask_auto(world, UNKNOWN.format("once more"))
    assert reply.headers["X-Tier"] == "small"
    assert reply.headers["X-Route-Why"] == "in doubt, and the 2 a minute of anonymous are used up: small"
    assert (await ask_auto(world, HARD)).headers["X-Tier"] == "full"


ESCALATES = {"auto": {"primary": "small", "escalate_to": "full", "escalate_if": [{"length_cut": True}]}}


async def test_an_answer_that_is_doubted_is_given_by_the_higher_tier_instead(start):
    world, (little, _, big) = await start(routes=ESCALATES)
    little.does = "too-long"
    reply = await ask_auto(world)
    assert (reply.status, reply.headers["X-Tier"]) == (200, "full")
    assert "; small doubted (it was cut at its length)" in reply.headers["X-Route-Why"]
    assert (len(little.asked), len(big.asked)) == (1, 1)
    await world.until_idle()


async def test_a_doubted_answer_is_better_than_none(start):
    world, (little, _, big) = await start(routes=ESCALATES)
    little.does = "too-long"
    await big.stop()
    reply = await ask_auto(world)
    assert (reply.status, reply.headers["X-Tier"], reply.text) == (200, "small", "one two")
    assert re.search(r"full (failed|away)$", reply.headers["X-Route-Why"])
    assert len(little.asked) == 1


async def test_a_key_without_tokens_for_a_better_answer_is_given_the_doubted_one(start):
    world, (little, _, big) = await start(routes=ESCALATES, keys=[{**KEYS[0], "limits": {"tpd": 5}}])
    little.does = "too-long"
    mine = {"Authorization": f"Bearer {KEYS[0]['secret']}"}
    reply = await ask_auto(world, headers=mine)
    assert (reply.status, reply.headers["X-Tier"], reply.text) == (200, "small", "one two")
    assert reply.headers["X-Route-Why"].endswith("full used up (key tpd)")
    assert not big.asked
    assert (await ask_auto(world, headers=mine)).status == 429


async def test_a_doubted_answer_is_better_than_the_higher_tiers_refusal(start):
    world, (little, _, big) = await start(routes=ESCALATES)
    little.does, big.does = "too-long", "callers-400"
    reply = await ask_auto(world)
    assert (reply.status, reply.headers["X-Tier"], reply.text) == (200, "small", "one two")
    assert reply.headers["X-Route-Why"].endswith("full refused")
    assert len(big.asked) == 1
    await world.until_idle()


async def test_a_higher_tiers_refusal_is_nobodys_answer_where_there_is_a_doubted_one(start):
    world, (little, _, big) = await start(routes=ESCALATES, cache={"enabled": True})
    little.does, big.does = "too-long-later", "callers-400"
    sure = {"options": {"temperature": 0}}
    asked = [
        asyncio.create_task(ask(world.url, "/api/chat", EASY, model="auto", stream=False, **sure)) for _ in range(3)
    ]
    await until_counted(world, "olm_cache_followers", "", 2)
    little.gate.set()
    replies = await asyncio.gather(*asked)
    assert [(each.status, each.text) for each in replies] == [(200, "one two")] * 3
    await world.until_idle()


async def test_an_empty_header_names_no_tier_and_passes_no_doubt_by(start):
    world, (little, _, _) = await start(routes=ESCALATES, keys=KEYS)
    little.does = "too-long"
    mine = {"Authorization": f"Bearer {KEYS[0]['secret']}", "X-Tier": ""}
    assert (await ask_auto(world, headers=mine)).headers["X-Tier"] == "full"


async def test_a_picture_is_escalated_to_no_model_that_cannot_see(start):
    world, (little, _, big) = await start(routes=ESCALATES)
    blind = {"show": {"capabilities": ["completion"]}}
    await world.publish([replace(each, details=blind) if each.name == "big" else each for each in world.pools])
    await world.until_known()
    little.does = "too-long"
    shown = [{"role": "user", "content": EASY, "images": ["iVBORw0KGgo="]}]
    reply = await ask_auto(world, messages=shown)
    assert (reply.status, reply.headers["X-Tier"], reply.text) == (200, "small", "one two")
    assert not big.asked


async def test_nobody_talks_the_router_into_the_higher_tier_for_everything(start):
    world, (little, _, big) = await start(routes={"auto": {**ESCALATES["auto"], "unsure_rpm": 1}})
    little.does = "too-long"
    assert (await ask_auto(world)).headers["X-Tier"] == "full"
    reply = await ask_auto(world)
    assert (reply.headers["X-Tier"], reply.text) == ("small", "one two")
    assert "the 1 a minute of anonymous are used up" in reply.headers["X-Route-Why"]
    assert len(big.asked) == 1


# --- keys and settings -----------------------------------------------------------------------------------------------


async def test_a_key_that_has_used_its_budget_is_told_when_to_come_back_whatever_it_asks_for(start):
    keys = [{**KEYS[0], "limits": {"rpm": 2}}, KEYS[1]]
    world, _ = await start(keys=keys)
    mine, other = ({"Authorization": f"Bearer {each['secret']}"} for each in KEYS)
    for model in ("auto", "little"):
        assert (await ask_auto(world, model=model, headers=mine)).status == 200
    for model in ("auto", "little"):
        reply = await ask_auto(world, model=model, headers=mine)
        assert reply.status == 429
        assert 1 <= int(reply.headers["Retry-After"]) <= 61
    assert (await ask_auto(world, headers=other)).status == 200


async def test_a_key_that_has_used_its_tokens_is_told_so_though_tiers_are_there(start):
    world, _ = await start(keys=[{**KEYS[0], "limits": {"tpm": 5}}])
    mine = {"Authorization": f"Bearer {KEYS[0]['secret']}"}
    assert (await ask_auto(world, headers=mine)).status == 200
    for model in ("auto", "little"):
        reply = await ask_auto(world, model=model, headers=mine)
        assert (reply.status, "API key support-eu" in reply.json()["error"]) == (429, True)


async def test_changed_routes_are_in_force_at_once_and_calls_under_way_go_on(start):
    world, (little, _, _) = await start()
    little.does = "wait"
    under_way = asyncio.create_task(ask_auto(world))
    await little.until(1)
    routes = {"auto": {"primary": "full"}, "mine": {"match": {"text": "^hello"}, "primary": "spare"}}
    changed = settings_with(routes={**routes, "other": {"primary": "small"}})
    settings_in_use.write(StatePaths(world.state), changed)
    world.gateways[0].send_signal(signal.SIGHUP)
    reply = await until(
        lambda: ask_auto(world, HARD), holds=lambda reply: reply.headers["X-Route-Why"] == "every question: full"
    )
    assert reply.headers["X-Tier"] == "full"
    assert (await ask_auto(world)).headers["X-Route"] == "mine"
    little.gate.set()
    assert (await under_way).headers["X-Tier"] == "small"


async def test_a_tier_whose_breaker_is_set_otherwise_is_left_alone_no_longer_in_any_metric() -> None:
    rules = [rules_from(settings_with(tiers={"small": {"breaker": {**BREAKER, "open_s": each}}})) for each in (60, 50)]
    breakers, (before, after) = Breakers(Live(rules[0])), (each.tiers["small"] for each in rules)

    def is_left_alone() -> float | None:
        return REGISTRY.get_sample_value("olm_tiers_left_alone", {"tier": "small"})

    for _ in range(2):
        permit = breakers.ask(before)
        assert permit is not None
        breakers.end(before, permit, Ended.BADLY)
    assert (breakers.ask(before), is_left_alone()) == (None, 1)
    assert breakers.ask(after) is not None
    assert is_left_alone() == 0
