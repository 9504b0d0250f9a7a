"""Budgets in Redis: never more than the limit, whoever asks at once; and by the very rules of the pure model."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.limits import (
    DAY_MS,
    HELD_WAIT_MS,
    Counts,
    Kind,
    Need,
    Reserved,
    heeded,
    refusal_of,
    reserved,
    settled,
    used_of,
)
from orchestrator.core.target import Budget
from orchestrator.core.told import Told
from orchestrator.store import budgets, scripts
from orchestrator.store.budgets import Claim, Claimed, Ended
from orchestrator.store.connection import Connection
from orchestrator.store.schema import budget_keys, budget_record
from orchestrator.store.scripts import Script
from tests.store.playing import Connect, Server, all_keys, everywhere
from tests.waiting import until

SCOPE = "tier:deep"
CALL = Need(requests=1, tokens=100, nano=0, holds=True)
TTL_S = 30.0
TTL_MS = 30_000
CLOCK = "olm:budget:{all}:clock"
# Ten seconds before December: a minute, a day and a month that end while calls are made.
START_MS = 1_796_083_200_000 - 10_000


@pytest.fixture
async def store(store: Connection) -> Connection:
    """An empty Redis that knows the scripts: one that it does not is loaded behind what was asked after it."""
    await budgets.load(store)
    return store


async def reserve(store: Connection, name: str, budget: Budget, need: Need = CALL, ttl_s: float = TTL_S) -> Claimed:
    return await budgets.reserve(store, name, [Claim(SCOPE, budget, need)], ttl_s)


async def standing(store: Connection, scope: str = SCOPE, budget: Budget | None = None) -> budgets.Standing:
    (found,) = await budgets.look(store, [Claim(scope, budget or Budget(concurrent=10**6), Need(1, 1, 1))])
    return found


def played_clock(script: Script) -> Script:
    """The same script by a clock that a test sets."""
    source = script.source.replace("call('TIME')", f"call('HMGET', '{CLOCK}', 's', 'us')")
    assert source != script.source
    return Script(script.name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@pytest.fixture
def played_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESERVE", "SPEND", "HOLD", "HEED"):
        monkeypatch.setattr(scripts, name, played_clock(getattr(scripts, name)))


async def set_clock(connection: Connection, now_ms: int) -> None:
    await connection.command("HSET", CLOCK, "s", now_ms // 1000, "us", now_ms % 1000 * 1000)


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "granted"),
    [
        (Budget(rpm=7), 7),
        (Budget(rpd=9), 9),
        (Budget(tpm=1000), 10),
        (Budget(tpd=550), 5),
        (Budget(concurrent=4), 4),
        (Budget(usd_day=0.01), 8),
        (Budget(usd_month=0.005), 4),
        (Budget(rpm=6, tpm=300, concurrent=5), 3),
    ],
)
async def test_of_forty_callers_at_once_on_two_gateways_no_more_than_the_limit_allows_get_in(
    shared_server: Server, store: Connection, connect: Connect, budget: Budget, granted: int
) -> None:
    gateways = [store, await connect(shared_server)]
    need = CALL._replace(nano=1_250_000)
    asked = (reserve(gateways[at % 2], f"call-{at}", budget, need) for at in range(40))
    assert sum(each.is_granted for each in await asyncio.gather(*asked)) == granted


async def test_a_call_is_granted_all_its_claims_or_uses_nothing_of_any(store: Connection) -> None:
    wide, narrow = Claim("tier:deep", Budget(rpm=100), CALL), Claim("provider:groq", Budget(rpm=1), CALL)
    assert (await budgets.reserve(store, "one", [wide, narrow], TTL_S)).is_granted
    refused = await budgets.reserve(store, "two", [wide, narrow], TTL_S)
    assert not refused.is_granted
    of_wide, of_narrow = refused.standings
    assert of_wide.refusal is None
    assert of_narrow.refusal is not None
    assert of_narrow.refusal.kind is Kind.RPM
    assert (await standing(store)).used.rpm == 1


async def test_who_is_refused_is_told_when_the_minute_is_free_again(store: Connection) -> None:
    assert (await reserve(store, "one", Budget(rpm=1))).is_granted
    refusal = (await reserve(store, "two", Budget(rpm=1))).standings[0].refusal
    assert refusal is not None
    assert 0 < refusal.wait_ms <= 61_000


async def test_a_call_that_needs_more_than_the_limit_goes_when_nothing_else_is_counted(store: Connection) -> None:
    large = CALL._replace(tokens=50_000)
    assert (await reserve(store, "large", Budget(tpm=8000), large)).is_granted
    assert not (await reserve(store, "small", Budget(tpm=8000))).is_granted


# --- settled ----------------------------------------------------------------------------------------------------------


async def test_what_a_call_did_not_use_is_there_for_others(store: Connection) -> None:
    budget = Budget(tpm=1000, concurrent=1)
    claim = Claim(SCOPE, budget, CALL._replace(tokens=900))
    assert (await budgets.reserve(store, "one", [claim], TTL_S)).is_granted
    assert not (await reserve(store, "two", budget)).is_granted
    budgets.settle(store, [Ended("one", [claim], [claim.need.settled(150, 0)])])
    assert (await reserve(store, "three", budget)).is_granted
    used = (await standing(store)).used
    assert (used.rpm, used.tpm, used.tpd, used.concurrent) == (2, 250, 250, 1)


async def test_a_call_that_used_more_than_was_expected_is_counted_whole(store: Connection) -> None:
    claim = Claim(SCOPE, Budget(tpm=1000), CALL)
    await budgets.reserve(store, "one", [claim], TTL_S)
    budgets.settle(store, [Ended("one", [claim], [claim.need.settled(1500, 0)])])
    assert not (await reserve(store, "two", Budget(tpm=1000))).is_granted


async def test_a_call_that_did_not_happen_leaves_no_trace(store: Connection) -> None:
    claim = Claim(SCOPE, Budget(rpd=1, usd_day=1.0, concurrent=1), CALL._replace(nano=700_000_000))
    await budgets.reserve(store, "one", [claim], TTL_S)
    budgets.settle(store, [Ended("one", [claim], [claim.need.released])])
    assert not any((await standing(store)).used)
    assert (await budgets.reserve(store, "two", [claim], TTL_S)).is_granted


async def test_settled_twice_it_is_counted_once(store: Connection) -> None:
    claim = Claim(SCOPE, Budget(tpm=1000), CALL)
    await budgets.reserve(store, "one", [claim], TTL_S)
    for _ in range(3):
        budgets.settle(store, [Ended("one", [claim], [claim.need.settled(40, 0)])])
    assert (await standing(store)).used.tpm == 40


async def test_what_was_refused_is_not_settled(store: Connection) -> None:
    """A caller who left does not know whether it was granted; it says that it was not used, whatever it was."""
    claim = Claim(SCOPE, Budget(rpm=1), CALL)
    await budgets.reserve(store, "one", [claim], TTL_S)
    assert not (await budgets.reserve(store, "two", [claim], TTL_S)).is_granted
    budgets.settle(store, [Ended("two", [claim], [claim.need.released])])
    assert (await standing(store)).used.rpm == 1


# --- under way --------------------------------------------------------------------------------------------------------


async def test_the_calls_of_a_gateway_that_died_are_under_way_no_longer(
    store: Connection, played_scripts: None
) -> None:
    budget = Budget(concurrent=2, rpd=100)
    await set_clock(store, START_MS)
    for name in ("one", "two"):
        assert (await reserve(store, name, budget)).is_granted
    await set_clock(store, START_MS + TTL_MS - 1)
    assert not (await reserve(store, "three", budget)).is_granted
    await set_clock(store, START_MS + TTL_MS)
    assert (await reserve(store, "three", budget)).is_granted
    assert (await standing(store)).used.concurrent == 1


async def test_a_call_that_is_held_on_to_is_under_way_for_as_long(store: Connection, played_scripts: None) -> None:
    budget = Budget(concurrent=1)
    await set_clock(store, START_MS)
    assert (await reserve(store, "long", budget)).is_granted
    for third in range(1, 12):
        await set_clock(store, START_MS + third * TTL_MS // 3)
        assert await budgets.hold(store, {SCOPE: ["long"]}, TTL_S) == 0
        assert not (await reserve(store, "other", budget)).is_granted


async def test_calls_that_redis_has_lost_are_counted_again(store: Connection) -> None:
    await everywhere(store, "FLUSHALL")
    assert await budgets.hold(store, {SCOPE: ["one", "two"]}, TTL_S) == 2
    refusal = (await reserve(store, "three", Budget(concurrent=2))).standings[0].refusal
    assert refusal is not None
    assert (refusal.kind, refusal.wait_ms) == (Kind.CONCURRENT, HELD_WAIT_MS)


# --- a provider's word ------------------------------------------------------------------------------------------------


async def test_a_provider_that_says_wait_is_not_asked_until_then_by_any_gateway(
    shared_server: Server, store: Connection, connect: Connect
) -> None:
    budgets.heed(store, SCOPE, Told(retry_after_s=20.0))
    await store.command("PING")
    refusal = (await reserve(await connect(shared_server), "one", Budget())).standings[0].refusal
    assert refusal is not None
    assert refusal.kind is Kind.TOLD
    assert 0 < refusal.wait_ms <= 20_000


async def test_no_more_is_asked_than_a_provider_says_is_left(store: Connection) -> None:
    budgets.heed(store, SCOPE, Told(remaining_requests=2, reset_requests_s=30.0))
    got = [(await reserve(store, f"call-{at}", Budget())).is_granted for at in range(4)]
    assert got == [True, True, False, False]


async def test_the_newest_word_of_a_provider_counts(store: Connection) -> None:
    budgets.heed(store, SCOPE, Told(remaining_tokens=10, reset_tokens_s=30.0))
    assert not (await reserve(store, "one", Budget())).is_granted
    budgets.heed(store, SCOPE, Told(remaining_tokens=5000, reset_tokens_s=30.0))
    assert (await reserve(store, "two", Budget())).is_granted


# --- as the model -----------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One thing that a gateway does, so long after the one before."""

    after_ms: int
    what: str
    need: Need
    which: int
    told: Told


LIMIT = st.one_of(st.none(), st.integers(1, 12))
BUDGETS = st.builds(
    Budget,
    rpm=LIMIT,
    rpd=LIMIT,
    tpm=st.one_of(st.none(), st.integers(1, 600)),
    tpd=st.one_of(st.none(), st.integers(1, 1500)),
    concurrent=st.one_of(st.none(), st.integers(1, 3)),
    usd_day=st.one_of(st.none(), st.sampled_from((0.001, 0.004))),
    usd_month=st.one_of(st.none(), st.sampled_from((0.002, 0.01))),
)
NEEDS = st.builds(
    Need,
    requests=st.sampled_from((1, 1, 1, 0, 3)),
    tokens=st.one_of(st.none(), st.integers(0, 700)),
    nano=st.one_of(st.none(), st.integers(0, 1_500_000)),
    holds=st.booleans(),
)
TOLDS = st.builds(
    Told,
    retry_after_s=st.one_of(st.none(), st.sampled_from((0.5, 7.0))),
    remaining_requests=st.one_of(st.none(), st.integers(0, 3)),
    remaining_tokens=st.one_of(st.none(), st.integers(0, 500)),
    reset_requests_s=st.sampled_from((1.0, 90.0)),
    reset_tokens_s=st.sampled_from((2.0, 40.0)),
)
STEPS = st.lists(
    st.builds(
        Step,
        after_ms=st.sampled_from((0, 0, 1, 400, 999, 1000, 5000, 30_000, 60_000, 61_000, 130_000, DAY_MS, 29 * DAY_MS)),
        what=st.sampled_from(("reserve", "reserve", "reserve", "settle", "settle", "release", "heed")),
        need=NEEDS,
        which=st.integers(0, 50),
        told=TOLDS,
    ),
    max_size=25,
)


@given(budget=BUDGETS, steps=STEPS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_scripts_decide_and_count_as_the_model_does(
    shared_server: Server, played_scripts: None, budget: Budget, steps: list[Step]
) -> None:
    asyncio.run(_agree(shared_server, budget, steps))


async def _agree(server: Server, budget: Budget, steps: list[Step]) -> None:
    connection = Connection(server.url)
    await connection.open(20)
    try:
        await connection.command("FLUSHALL")
        await budgets.load(connection)
        await _play(connection, budget, steps)
    finally:
        await connection.close()


async def _play(connection: Connection, budget: Budget, steps: list[Step]) -> None:
    counts, now_ms, taken = Counts(), START_MS, list[tuple[Claim, Reserved]]()
    for at, step in enumerate(steps):
        now_ms += step.after_ms
        await set_clock(connection, now_ms)
        if step.what == "reserve":
            name, claim = f"call-{at}", Claim(SCOPE, budget, step.need)
            told = await budgets.reserve(connection, name, [claim], TTL_S)
            refusal = refusal_of(counts, budget, step.need, now_ms)
            assert told.standings[0].refusal == refusal
            assert told.is_granted == (refusal is None)
            if refusal is None:
                counts = reserved(counts, name, step.need, now_ms, TTL_MS)
                taken.append((claim, Reserved(name, now_ms // 1000, step.need)))
        elif step.what == "heed":
            budgets.heed(connection, SCOPE, step.told)
            counts = heeded(counts, step.told, now_ms)
        elif taken:
            claim, one = taken.pop(step.which % len(taken))
            whole = one.need.settled(step.need.tokens or 0, step.need.nano or 0)
            used = whole if step.what == "settle" else one.need.released
            budgets.settle(connection, [Ended(one.name, [claim], [used])])
            counts = settled(counts, one, used, now_ms)
        assert (await standing(connection)).used == used_of(counts, now_ms)


async def test_calls_that_ended_together_are_settled_in_one_run_each_by_its_own_counts(store: Connection) -> None:
    claims = [Claim(SCOPE, Budget(tpm=10_000), CALL), Claim("key:ops", Budget(tpd=10_000), CALL._replace(requests=0))]
    for name in ("one", "two", "three"):
        assert (await budgets.reserve(store, name, claims, TTL_S)).is_granted
    used = {"one": 40, "two": 500}
    budgets.settle(
        store, [Ended(name, claims, [each.need.settled(n, 0) for each in claims]) for name, n in used.items()]
    )
    for scope, requests in ((SCOPE, 3), ("key:ops", 0)):
        found = (await standing(store, scope)).used
        assert (found.rpm, found.tpm, found.tpd, found.concurrent) == (requests, 640, 640, 1)


async def test_what_is_kept_of_a_scope_nobody_uses_any_more_goes_by_itself(store: Connection) -> None:
    async def has_all_keys() -> bool:
        await reserve(store, "one", Budget(rpm=10**6, concurrent=10**6))
        return set(budget_keys(SCOPE)) <= await all_keys(store, "olm:budget:*")

    await until(has_all_keys)  # two seconds have counted calls
    for key in (*budget_keys(SCOPE), budget_record("one")):
        assert await store.command("PTTL", key) > 0, key
