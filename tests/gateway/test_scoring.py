"""`scorer: llm`: a model of the cluster says how hard a question is, and whatever goes wrong keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orchestrator.app.rules import rules_from
from orchestrator.core.errors import SettingsError
from orchestrator.core.limits import Used
from orchestrator.core.target import Budget
from orchestrator.gateway.budget_words import standings
from orchestrator.gateway.scoring import FAILURES
from orchestrator.settings import ClusterSettings, parse
from orchestrator.store import usage
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.waiting import until

HARD, EASY = "Prove that there are infinitely many primes.", "hello"
SETTINGS: dict[str, Any] = {
    "models": {"judge": {}, "m": {}},
    "tiers": {"small": {"model": "m"}, "full": {"model": "m"}, "judge": {"model": "judge"}},
}
LLM = {"scorer": "llm", "scorer_tier": "judge", "scorer_timeout_s": 60}


@dataclass(slots=True)
class Engine:
    """Judges as it is told to; `hold`: not before that is set."""

    says: str = '{"type": "TASK", "complexity": 9}'
    status: int = 200
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    judged: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = "an answer"
        if body["model"] == "judge":
            self.judged.append(body)
            await self.hold.wait()
            text = self.says
        told = {"model": body["model"], "created_at": "2026-11-21T00:00:00Z", "done": True, "done_reason": "stop"}
        told |= {"message": {"role": "assistant", "content": text}, "prompt_eval_count": 60, "eval_count": 12}
        return web.json_response(told if self.status == 200 else {"error": "no"}, status=self.status)


Start = Callable[..., Awaitable[tuple[Played, Engine]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway before one engine that has both pools; `auto` is of the route's settings."""
    async with AsyncExitStack() as stack:

        async def begin(
            tiers: tuple[str, ...] = ("small", "full", "judge"),
            judge: dict[str, Any] | None = None,
            keys: tuple[dict[str, Any], ...] = (),
            **auto: Any,
        ) -> tuple[Played, Engine]:
            engine, app = Engine(), web.Application()
            engine.hold.set()
            app.router.add_post("/api/chat", engine.chat)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            engine.port = runner.addresses[0][1]
            pools = [pool_of(name, [engine.port]) for name in ("judge", "m")]
            told = {"tiers": {name: SETTINGS["tiers"][name] for name in tiers}, "routes": {"auto": {**LLM, **auto}}}
            told["tiers"]["judge"] = {**SETTINGS["tiers"]["judge"], **(judge or {})}
            settings = ClusterSettings.model_validate({**SETTINGS, **told, "keys": keys})
            return await stack.enter_async_context(played(tmp_path, settings, pools)), engine

        yield begin


async def auto(world: Played, text: str, **more: str) -> Reply:
    headers = {"Cache-Control": "no-store", **more}
    return await ask(world.url, "/api/chat", text, model="auto", stream=False, headers=headers)


async def scored(world: Played) -> dict[str, float]:
    """By what came of it."""
    lines = (await get(world.url, "/metrics")).body.decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("olm_scored_total{")]
    return {name.partition('outcome="')[2].rstrip('"}'): float(amount) for name, _, amount in found}


async def test_the_models_word_decides_and_is_asked_for_once_a_text(start: Start) -> None:
    world, engine = await start()
    tiers = [(await auto(world, EASY)).headers["X-Tier"] for _ in range(3)]
    engine.says = '{"type": "CHAT", "complexity": 1}'
    tiers.append((await auto(world, HARD)).headers["X-Tier"])
    assert tiers == ["full", "full", "full", "small"]
    assert len(engine.judged) == 2
    assert EASY in engine.judged[0]["messages"][1]["content"]
    assert engine.judged[0]["format"]["required"] == ["type", "complexity"]
    assert await scored(world) == {"ok": 2.0, "remembered": 2.0}


async def test_what_judging_costs_is_counted_apart(start: Start) -> None:
    world, _ = await start()
    await auto(world, EASY)
    day = datetime.now(UTC).date().isoformat()
    judged = {"tier:scorer:prompt_tokens": 60, "tier:scorer:completion_tokens": 12}
    used = await until(
        lambda: usage.read(world.connection, day), holds=lambda used: judged.items() <= used.get("judge", {}).items()
    )
    told = used["judge"]
    assert "tier:judge:requests" not in told


async def until_used(world: Played, scope: str, is_so: Callable[[Used], bool]) -> Used:
    """What all gateways counted under a scope, once it is so: what a call used is told behind its answer."""

    async def used() -> Used:
        return (await standings(world.connection, {scope: Budget()}))[scope].used

    return await until(used, scope, holds=is_so)


KEY = {"name": "web", "secret": "0123456789abcdef", "admin": True}
BEARER = {"Authorization": "Bearer 0123456789abcdef"}


async def test_what_judging_uses_is_charged_to_the_callers_key_and_to_its_own_tier(start: Start) -> None:
    limits = {"tpd": 100_000}
    world, _ = await start(judge={"limits": limits}, keys=({**KEY, "limits": limits},))
    for _ in range(2):  # the second time its word is remembered
        assert (await auto(world, EASY, **BEARER)).status == 200
    await until_used(world, "tier:judge", lambda used: used.tpd == 72)
    await until_used(world, "key:web", lambda used: used.tpd == 3 * 72)


async def test_what_judging_costs_is_money_of_the_callers_key(start: Start) -> None:
    price = {"prompt": 1000, "completion": 1000}  # of a million tokens: 7.2 cents a word
    world, _ = await start(judge={"price": price}, keys=({**KEY, "limits": {"usd_day": 5}},))
    assert (await auto(world, EASY, **BEARER)).status == 200
    await until_used(world, "key:web", lambda used: used.nano_day == 72_000_000)
    lines = (await get(world.url, "/metrics", headers=BEARER)).body.decode()
    assert 'olm_usd_total{tier="scorer"} 0.072' in lines


async def test_a_judge_whose_tier_is_used_up_is_not_asked_and_not_blamed(start: Start) -> None:
    world, engine = await start(judge={"limits": {"rpd": 1}})
    tiers = [(await auto(world, f"{EASY} {each}")).headers["X-Tier"] for each in range(FAILURES + 2)]
    assert tiers == ["full", *["small"] * (FAILURES + 1)]
    assert len(engine.judged) == 1
    assert await scored(world) == {"ok": 1.0, "used up": FAILURES + 1.0}


async def test_a_judge_that_is_late_has_read_the_question_all_the_same(start: Start) -> None:
    world, engine = await start(scorer_timeout_s=1, judge={"limits": {"tpd": 100_000, "concurrent": 1}})
    engine.hold.clear()
    assert (await auto(world, EASY)).headers["X-Tier"] == "small"
    seen = await until_used(world, "tier:judge", lambda used: not used.concurrent)
    assert 0 < seen.tpd < 400  # the question with what goes before it, and no answer
    engine.hold.set()


@pytest.mark.parametrize("says", ["I cannot tell.", '{"type": "TASK"}', ""])
async def test_a_word_that_is_none_leaves_it_to_the_trained_weights(start: Start, says: str) -> None:
    world, engine = await start()
    engine.says = says
    assert (await auto(world, EASY)).headers["X-Tier"] == "small"
    assert await scored(world) == {"invalid": 1.0}


async def test_a_judge_that_is_late_is_not_waited_for_and_after_three_times_not_asked(start: Start) -> None:
    world, engine = await start(scorer_timeout_s=0.2)
    engine.hold.clear()
    told = [await auto(world, f"hello {each}") for each in range(FAILURES + 2)]
    assert [each.headers["X-Tier"] for each in told] == ["small"] * (FAILURES + 2)
    assert len(engine.judged) <= FAILURES, "what was late already is not sent"
    assert await scored(world) == {"timeout": float(FAILURES), "left alone": 2.0}


async def test_a_late_judges_slot_is_given_back(start: Start) -> None:
    world, engine = await start(scorer_timeout_s=0.2)
    engine.hold.clear()
    await auto(world, EASY)
    engine.hold.set()

    async def is_back() -> bool:
        status = (await get(world.url, "/status.json")).json()
        return not any(instance["in_flight"] for pool in status["pools"] for instance in pool["instances"])

    await until(is_back)


async def test_a_judge_that_fails_keeps_no_call_from_its_answer(start: Start) -> None:
    world, _ = await start()
    await world.publish([each for each in world.pools if each.name != "judge"])

    async def is_refused() -> bool:
        assert (await auto(world, f"hello {datetime.now(UTC)}")).status == 200
        return (await scored(world)).get("CapacityError", 0) > 0

    await until(is_refused)


async def test_a_route_with_one_tier_asks_no_judge(start: Start) -> None:
    world, engine = await start(("small", "judge"), small="small", full="small")
    assert (await auto(world, EASY)).status == 200
    assert not engine.judged


# --- the settings -----------------------------------------------------------------------------------------------------

OUTSIDE = """
models: {m: }
providers: {mistral: {key: "0123456789abcdef"}}
tiers:
  small: {model: m}
  full: {model: m}
  far: {model: mistral-small-latest, provider: mistral}
routes: {auto: {scorer: llm, scorer_tier: %s}}
"""


def test_texts_are_never_judged_outside() -> None:
    with pytest.raises(SettingsError, match="'far' is a provider's, and every question would go there; name a tier"):
        parse(OUTSIDE % "far", "cluster.yaml")
    settings = ClusterSettings.model_validate(
        {
            "models": {"m": {}},
            "providers": {"mistral": {"key": "0123456789abcdef"}},
            "tiers": {"small": {"model": "m"}, "full": {"model": "m"}, "far": {"model": "x", "provider": "mistral"}},
            "routes": {"auto": {"scorer": "llm", "scorer_tier": "far"}},
        }
    )
    assert rules_from(settings).routes["auto"].scorer is None


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ("{scorer: llm}", "routes.auto.scorer: a model has to be asked: name its tier as `scorer_tier`"),
        ("{scorer_tier: small}", "routes.auto.scorer_tier: is of use with `scorer: llm` alone; set that, or leave"),
        ("{scorer_timeout_s: 1}", "routes.auto.scorer_timeout_s: is of use with `scorer: llm` alone"),
        ("{scorer: llm, scorer_tier: smal}", "no such tier 'smal'; did you mean 'small'"),
    ],
)
def test_what_a_scorer_lacks_and_what_lacks_a_scorer_is_told(route: str, told: str) -> None:
    text = f"models: {{m: }}\ntiers: {{small: {{model: m}}, full: {{model: m}}}}\nroutes: {{auto: {route}}}\n"
    with pytest.raises(SettingsError) as raised:
        parse(text, "cluster.yaml")
    assert told in str(raised.value)
