"""What callers see of budgets: no more than the limit through however many workers, told when to come back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.admission import Share
from orchestrator.core.limits import Exhausted, Need, Used, prompt_tokens
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.target import Budget
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.budget_share import BudgetShare, now_ms
from orchestrator.gateway.budgets import Budgets, Reserved, _label
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Live
from orchestrator.gateway.trace import Trace
from orchestrator.settings import ClusterSettings
from orchestrator.store import budgets
from orchestrator.store.budgets import Claim
from orchestrator.store.connection import Connection
from tests.gateway.asking import Reply, ask, get
from tests.gateway.far_side import KEY, MODEL, FarSide, far_side
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.store.playing import Server, back
from tests.waiting import until

OPS, GUEST = "0123456789abcdef-of-an-admin", "fedcba9876543210-of-a-guest"
FRESH = {"Cache-Control": "no-store"}
# Each stand-in's answer: 7 tokens of the prompt and 3 of its own.
TOKENS = 10
UNSURE_RPM = 5
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


def settings_with(
    limits: dict[str, Any], tier: dict[str, Any] | None = None, price: dict[str, float] | None = None, **changes: Any
) -> ClusterSettings:
    keys = [{"name": "ops", "secret": OPS, "admin": True}, {"name": "guest", "secret": GUEST, "limits": limits}]
    small = {"model": "little", "backup": "full", "limits": tier or {}, "price": price}
    tiers = {"small": small, "full": {"model": "big"}}
    whole = {"models": {"little": {}, "big": {}}, "tiers": tiers, "routes": {"auto": {}}, "keys": keys}
    return ClusterSettings.model_validate({**whole, **changes})


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts two workers on one port before two stand-ins: the pools little and big."""
    async with AsyncExitStack() as stack:

        async def begin(
            limits: dict[str, Any], tier: dict[str, Any] | None = None, workers: int = 2, **more: Any
        ) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(2))
            pools = [
                pool_of(name, [each.port], slots=8) for name, each in zip(("little", "big"), instances, strict=True)
            ]
            settings = settings_with(limits, tier, **more)
            return await stack.enter_async_context(played(tmp_path, settings, pools, workers=workers)), instances

        yield begin


async def asks(world: Played, text: str = "hello", model: str = "little", key: str = GUEST, **more: Any) -> Reply:
    """Past the cache, on a connection of its own: to either worker."""
    headers = {"Authorization": f"Bearer {key}", **more.pop("headers", FRESH)}
    return await ask(world.url, more.pop("path", "/api/chat"), text, model=model, headers=headers, **more)


async def used_of_key(world: Played, name: str = "guest") -> budgets.Standing:
    (found,) = await budgets.look(world.connection, [Claim(f"key:{name}", Budget(concurrent=10**6), Need(1, 1, 1))])
    return found


# --- a key ------------------------------------------------------------------------------------------------------------


async def test_of_twelve_calls_at_once_over_two_workers_a_key_gets_the_five_it_may(start):
    world, (little, _) = await start({"rpm": 5})
    replies = await asyncio.gather(*(asks(world, f"hello {at}", stream=bool(at % 2)) for at in range(12)))
    assert sorted(each.status for each in replies) == [200] * 5 + [429] * 7
    assert len(little.asked) == 5
    assert (await asks(world, key=OPS)).status == 200


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_key_that_has_used_its_requests_is_told_in_its_dialect_when_to_come_back(start, path):
    world, _ = await start({"rpm": 1})
    first = await asks(world, path=path, stream=False)
    assert (first.status, first.headers["X-RateLimit-Remaining-Requests"]) == (200, "0")
    reply = await asks(world, path=path, stream=False)
    assert reply.status == 429
    assert 1 <= int(reply.headers["Retry-After"]) <= 61
    assert reply.headers["X-RateLimit-Limit-Requests"] == "1"
    told = reply.json()["error"]
    message = "API key guest has used its 1 requests a minute (`limits.rpm`)"
    if path == "/api/chat":
        assert told == message
    else:
        assert (told["type"], told["message"]) == ("rate_limit_error", message)


async def test_a_key_is_charged_the_tokens_that_its_calls_used_and_not_those_that_were_expected(start):
    """Four calls at their estimate of some 400 tokens would be too many; at their true ten they are not."""
    world, _ = await start({"tpm": 1000})
    for at in range(4):
        reply = await asks(world, f"hello {at}", options={"num_predict": 350}, stream=False)
        assert reply.status == 200

    async def is_settled() -> bool:
        return (await used_of_key(world)).used.tpm == 4 * TOKENS

    await until(is_settled)
    assert (await asks(world, "hello", options={"num_predict": 990}, stream=False)).status == 429


async def test_a_cached_answer_is_a_request_and_no_tokens(start):
    world, (little, _) = await start({"rpd": 3, "tpd": 10_000})
    for _ in range(3):
        assert (await asks(world, headers={}, stream=False, options={"temperature": 0})).status == 200
    assert len(little.asked) == 1
    assert (await asks(world, headers={}, stream=False, options={"temperature": 0})).status == 429

    async def is_settled() -> bool:
        used = (await used_of_key(world)).used
        return (used.rpd, used.tpd) == (3, TOKENS)

    await until(is_settled)


async def test_calls_under_way_are_no_more_than_the_key_may_have_at_once_and_one_more_when_one_is_over(start):
    world, (little, _) = await start({"concurrent": 2})
    under_way = [asyncio.create_task(asks(world, f"wait {at}", stream=False)) for at in range(2)]
    await little.until(active=2)
    assert (await asks(world, "hello")).status == 429
    little.gate.set()
    assert [each.status for each in await asyncio.gather(*under_way)] == [200, 200]

    async def is_let_in() -> bool:
        return (await asks(world, "hello")).status == 200

    await until(is_let_in)


async def test_a_caller_that_left_is_under_way_no_longer(start):
    world, (little, _) = await start({"concurrent": 1})
    leaving = asyncio.create_task(asks(world, "wait here", stream=False))
    await little.until(active=1)
    leaving.cancel()

    async def is_let_in() -> bool:
        return (await asks(world, "hello")).status == 200

    await until(is_let_in)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_who_leaves_before_the_end_has_used_what_was_told_until_then(start, path):
    world, (little, _) = await start({"tpd": 10_000})
    body = {"model": "little", "messages": [{"role": "user", "content": "wait-midway"}], "stream": True}
    headers = {"Authorization": f"Bearer {GUEST}", **FRESH}
    async with aiohttp.ClientSession() as http, http.post(world.url + path, json=body, headers=headers) as reply:
        told = b""
        while b"two" not in told:
            told += await reply.content.readany()
        reply.close()
    raw = len(json.dumps(body))

    async def is_settled() -> bool:
        return 0 < (await used_of_key(world)).used.tpd <= prompt_tokens(raw) + 3

    await until(is_settled)
    assert (await used_of_key(world)).used.tpd >= prompt_tokens(raw) + 2
    little.gate.set()


async def test_an_answer_longer_than_any_that_is_asked_for_is_no_mistake_of_ours(start):
    world, _ = await start({"usd_day": 1.0}, tier={}, price={"prompt": 1.0, "completion": 100.0})
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": False, "max_tokens": 2**63 - 1}
    headers = {"Authorization": f"Bearer {GUEST}"}
    url = f"{world.url}/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json={"model": "auto", **body}, headers=headers) as reply,
    ):
        assert (reply.status, reply.headers["X-Tier"]) == (200, "full"), await reply.text()


async def test_a_keys_dollars_are_spent_by_calls_that_name_a_tiers_model_too(start):
    world, (little, _) = await start({"usd_day": 0.001}, price={"prompt": 1.0, "completion": 300.0})
    replies = [await asks(world, f"hello {at}", options={"num_predict": 3}, stream=False) for at in range(2)]
    assert [each.status for each in replies] == [200, 429]
    assert len(little.asked) == 1


async def test_a_limit_that_is_raised_holds_at_once_and_what_was_used_stays_counted(start):
    world, _ = await start({"rpd": 2})
    assert [(await asks(world, f"hello {at}")).status for at in range(3)] == [200, 200, 429]
    settings_in_use.write(StatePaths(world.state), settings_with({"rpd": 4}))
    for each in world.gateways:
        each.send_signal(signal.SIGHUP)

    async def are_both_changed() -> bool:
        return world.logs().count("settings taken over") == len(world.gateways)

    await until(are_both_changed)
    assert [(await asks(world, f"hello {at}")).status for at in range(3)] == [200, 200, 429]


# --- a tier -----------------------------------------------------------------------------------------------------------


async def test_beyond_what_a_tier_may_be_used_its_backup_answers(start):
    world, (little, big) = await start({}, tier={"rpm": 3})
    replies = [await asks(world, f"hello {at}", model="auto", stream=False) for at in range(5)]
    assert [each.headers["X-Tier"] for each in replies] == ["small"] * 3 + ["full"] * 2
    assert (len(little.asked), len(big.asked)) == (3, 2)


async def test_what_is_not_limited_asks_nobody_for_leave(start):
    world, _ = await start({})
    for model in ("little", "auto"):
        assert (await asks(world, model=model, stream=False)).status == 200
    assert await world.connection.command("KEYS", "olm:budget:*") == []


# --- a provider -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[tuple[Played, FarSide]]:
    """Two workers, and a provider as the tier `big`; the route `safe` has a pool as its backup, `auto` has none."""
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(far_side())
        far.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        (instance,) = await stack.enter_async_context(standing_in(1))
        price = {"prompt": 1.0, "completion": 10.0}
        big = {"provider": "far", "model": MODEL, "price": price}
        settings = settings_with(
            {"usd_day": 0.0003},
            models={"little": {}},
            providers={"far": {"url": f"https://localhost:{far.port}/v1", "key": KEY, "ca": str(tmp_path / "ca.pem")}},
            tiers={"big": big, "safe": {**big, "backup": "home"}, "home": {"model": "little"}},
            routes={"auto": {"primary": "big"}, "safe": {"primary": "safe"}},
        )
        pools = [pool_of("little", [instance.port])]
        yield await stack.enter_async_context(played(tmp_path, settings, pools, workers=2)), far


async def test_a_provider_that_says_wait_is_asked_by_no_worker_until_then(outside):
    world, far = outside
    far.does, far.says = "busy", {"Retry-After": "60"}
    first = await asks(world, model="safe", key=OPS, stream=False)
    assert (first.status, first.headers["X-Tier"]) == (200, "home")
    far.does = ""
    heard = len(far.heard)
    replies = await asyncio.gather(*(asks(world, f"hello {at}", "safe", OPS, stream=False) for at in range(8)))
    assert {each.headers["X-Tier"] for each in replies} == {"home"}
    reply = await asks(world, model="auto", key=OPS, stream=False)
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert len(far.heard) == heard


async def test_a_hundred_answers_at_once_are_expected_to_cost_a_hundred_times_as_much(outside):
    world, far = outside
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "n": 100}
    headers, url = {"Authorization": f"Bearer {GUEST}"}, f"{world.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as reply:
        assert reply.status == 429, await reply.text()
    assert not far.heard


async def test_a_key_spends_what_calls_cost_and_then_asks_what_is_free(outside):
    """A call is expected to cost some 75 millionths of a dollar, and costs 110: the key has 300."""
    world, far = outside
    for at in range(3):
        reply = await asks(world, f"hello {at}", model="auto", options={"num_predict": 5}, stream=False)
        assert (reply.status, reply.headers["X-Tier"]) == (200, "big")

        async def is_settled(spent: int = at + 1) -> bool:
            return (await used_of_key(world)).used.nano_day == spent * 110_000

        await until(is_settled)
    safe = await asks(world, model="safe", options={"num_predict": 5}, stream=False)
    assert (safe.status, safe.headers["X-Tier"]) == (200, "home")
    assert (await asks(world, model="little", stream=False)).status == 200
    refused = await asks(world, model="auto", options={"num_predict": 5}, stream=False)
    assert refused.status in (429, 503)
    assert int(refused.headers["Retry-After"]) >= 1
    assert len(far.heard) == 3


# --- how it stands ----------------------------------------------------------------------------------------------------


async def ollamactl(*args: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator.cli", *args),
        env={**os.environ, "OLLAMACTL_KEY": OPS, "COLUMNS": "140"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_command_shows_each_budget_what_of_it_is_used_and_when_it_is_free_again(start):
    world, _ = await start({"rpm": 2, "tpd": 5000}, tier={"rpm": 600})
    for at in range(3):
        await asks(world, f"hello {at}", stream=False)
    told = json.loads(await ollamactl("limits", "--endpoint", world.url, "--json"))
    assert told["store"] == "up"
    by_scope = {each["scope"]: each for each in told["limits"]}
    assert set(by_scope) == {"tier:small", "key:guest"}
    guest = by_scope["key:guest"]
    assert guest["limits"]["rpm"] == {"used": 2, "allowed": 2}
    assert guest["used_up"] == "rpm"
    assert 0 < guest["free_in_s"] <= 61
    assert by_scope["tier:small"]["used_up"] is None
    drawn = await ollamactl("limits", "--endpoint", world.url)
    (row,) = [line for line in drawn.splitlines() if "key:guest" in line]
    assert "2 / 2" in row
    assert "in " in row


async def test_metrics_tell_what_is_used_what_is_allowed_and_who_was_refused(start):
    world, _ = await start({"rpd": 2}, workers=1)  # several are added up by `up` alone
    for at in range(4):
        await asks(world, f"hello {at}", stream=False)
    admin = {"Authorization": f"Bearer {OPS}"}

    async def is_told() -> bool:
        told = (await get(world.url, "/metrics", headers=admin)).body.decode()
        values = dict(re.findall(r"^(olm_limit_\w+(?<!_created)\{[^}]*\}) (\S+)$", told, re.MULTILINE))
        of_key = {name: float(value) for name, value in values.items() if 'scope="key:guest"' in name}
        return {name.partition("{")[0]: value for name, value in of_key.items()} == {
            "olm_limit_used": 2.0,
            "olm_limit_allowed": 2.0,
            "olm_limit_refusals_total": 2.0,
        }

    await until(is_told)


# --- without Redis ----------------------------------------------------------------------------------------------------


class Gateway:
    """One worker's budgets: everything of it but HTTP."""

    def __init__(self, redis: Server, index: int, limits: dict[str, Any]) -> None:
        self.connection = Connection(redis.url)
        live = Live(rules_from(settings_with(limits, routes={"auto": {"unsure_rpm": UNSURE_RPM}})))
        self._route = live.rules.routes["auto"]
        self.budgets = Budgets(live, self.connection, lambda: Share(index, 2), ttl_s=15)
        self._caller = Caller("guest", budget=Budget(**limits))

    async def call(self) -> Reserved | Exhausted:
        return await self.budgets.reserve_key(self._asked())

    async def goes_up(self) -> bool:
        return await self.budgets.may_go_up(self._asked(), self._route)

    def _asked(self) -> Asked:
        call, nobody = Call(Endpoint.OLLAMA_CHAT, "little", False, {"messages": []}), cast(Any, None)
        trace = Trace("call", 0.0, self._caller)
        return Asked(nobody, nobody, call, 2, "little", (), "", False, trace, None)

    async def until_alone(self) -> None:
        await until(lambda: not self.connection.is_up)


@pytest.fixture
async def two(redis: Server) -> AsyncIterator[Callable[[dict[str, Any]], Awaitable[list[Gateway]]]]:
    """Two workers' budgets before a Redis that a test may kill."""
    made: list[Gateway] = []

    async def make(limits: dict[str, Any]) -> list[Gateway]:
        made.extend(Gateway(redis, index, limits) for index in range(2))
        for each in made:
            await each.connection.open(20)
            await each.budgets.start()
        return made

    yield make
    for each in made:
        await each.budgets.close()
        await each.connection.close()


async def granted(gateway: Gateway, calls: int) -> int:
    return sum([isinstance(await gateway.call(), Reserved) for _ in range(calls)])


async def test_without_redis_workers_divide_what_was_left_and_afterwards_count_together_again(two, redis, caplog):
    one, other = await two({"rpd": 11})
    assert await granted(one, 3) + await granted(other, 1) == 4
    for each in (one, other):
        await each.budgets.look()
    redis.kill()
    for each in (one, other):
        await each.until_alone()
    assert sorted((await granted(one, 9), await granted(other, 9))) == [3, 4]
    assert sum("what was left is divided by 2 gateways" in each for each in caplog.messages) == 2
    redis.start()
    await back(one.connection, other.connection)

    async def is_told() -> bool:
        # What was told without hearing the answer is told again: never too little.
        return (await standing(one)).used.rpd >= 11

    await until(is_told)
    assert await granted(one, 2) + await granted(other, 2) == 0


async def standing(gateway: Gateway) -> budgets.Standing:
    (found,) = await budgets.look(gateway.connection, [Claim("key:guest", Budget(concurrent=10**6), Need(1, 1, 1))])
    return found


async def test_calls_under_way_stay_counted_through_an_outage_that_lost_them(two, redis):
    one, other = await two({"concurrent": 2})
    reserved = [await one.call(), await other.call()]
    redis.kill()
    redis.lose_data()
    redis.start()
    await back(one.connection, other.connection)

    async def is_counted() -> bool:
        return (await standing(one)).used.concurrent == 2

    await until(is_counted)
    assert isinstance(await one.call(), Exhausted)
    for each, gateway in zip(reserved, (one, other), strict=True):
        assert isinstance(each, Reserved)
        gateway.budgets.settle(each, (0, 0), 0.0)

    async def is_over() -> bool:
        return (await standing(one)).used.concurrent == 0

    await until(is_over)


async def test_a_call_that_began_without_redis_is_under_way_no_longer_than_it_lasts(two, redis):
    one, other = await two({"concurrent": 2})
    redis.kill()
    for each in (one, other):
        await each.until_alone()
    reserved = await one.call()
    redis.start()
    await back(one.connection, other.connection)

    async def are_counted() -> int:
        return (await standing(one)).used.concurrent

    await until(are_counted, holds=lambda seen: seen == 1)
    one.budgets.settle(reserved, (0, 0), 0.0)
    await until(are_counted, holds=lambda seen: seen == 0)


async def test_a_call_that_ends_while_others_are_held_on_to_is_not_held_on_to(two):
    one, _ = await two({"concurrent": 2})
    caller, one._caller = one._caller, Caller("first", budget=Budget(concurrent=2))
    await one.call()
    one._caller = caller
    reserved = await one.call()
    holding = asyncio.create_task(one.budgets._hold())
    await asyncio.sleep(0)
    one.budgets.settle(reserved, (0, 0), 0.0)
    one.budgets._leave()
    await holding
    assert (await standing(one)).used.concurrent == 0


async def test_what_is_used_while_redis_is_told_of_it_is_told_too(two):
    one, _ = await two({"rpd": 100})
    share = BudgetShare(one.connection, lambda: Share(0, 1))
    claim = Claim("key:guest", Budget(rpd=100), Need(requests=1))
    share.settle(claim, claim.need, 0)
    telling = asyncio.create_task(share.tell())
    await asyncio.sleep(0)
    share.settle(claim, claim.need, 0)
    await telling
    await share.tell()
    assert (await standing(one)).used.rpd == 2


async def test_callers_by_token_are_one_series_an_issuer_and_forgotten_when_they_stay_away(two):
    assert {_label(f"key:company/{n}") for n in range(9)} == {"key:company"}
    assert _label("key:guest") == "key:guest"
    one, _ = await two({"rpd": 100})
    share = BudgetShare(one.connection, lambda: Share(0, 1))
    share.saw("key:company/1", Used(rpd=7))
    share.forget(now_ms() - 60_000)
    assert share.seen("key:company/1").rpd == 7
    share.forget(now_ms() + 1)
    assert share.seen("key:company/1") == Used()


async def test_a_caller_who_left_while_redis_was_asked_uses_nothing(two):
    one, _ = await two({"concurrent": 1})
    leaving = asyncio.create_task(one.call())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait((leaving,))
    assert isinstance(await one.call(), Reserved)


async def test_a_key_sends_no_more_up_for_doubt_than_its_quota_through_whichever_worker(two):
    gateways = await two({})
    allowed = [await gateways[at % 2].goes_up() for at in range(8)]
    assert allowed == [True] * UNSURE_RPM + [False] * (8 - UNSURE_RPM)
