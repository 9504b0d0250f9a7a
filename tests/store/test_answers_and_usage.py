"""Answers outside a pool, purging, and the counters that reports are made of."""

from __future__ import annotations

from orchestrator.core.model import PoolName
from orchestrator.store import usage
from orchestrator.store.answers import Answers, Counts
from orchestrator.store.connection import Connection
from orchestrator.store.pools import publish_pool
from orchestrator.store.schema import pool_usage
from tests.waiting import until


async def test_an_answer_is_given_until_its_time_is_over_and_counted(store: Connection) -> None:
    answers = Answers(store)
    assert await answers.counts("auto") == Counts(0, 0)
    assert await answers.get("auto", "d1") is None
    await answers.put("auto", "d1", b"120 km/h\x00", 60)
    assert await answers.get("auto", "d1") == b"120 km/h\x00"
    assert await answers.get("other", "d1") is None
    assert await answers.counts("auto") == Counts(1, 1)
    await answers.put("auto", "d2", b"x", 0.02)

    async def is_gone() -> bool:
        return await answers.get("auto", "d2") is None

    await until(is_gone)


async def test_purging_forgets_one_routes_answers_and_no_others(store: Connection) -> None:
    answers = Answers(store)
    for route in ("auto", "aut[o]", "a*"):
        for at in range(700):
            await answers.put(route, f"{at % 2}-{at}", b"x", 60)
    assert await answers.purge_route("a*") == 700
    assert await answers.purge_route("aut[o]", "1-") == 350
    assert await answers.get("auto", "0-0") == b"x"
    assert await answers.get("aut[o]", "0-0") == b"x"


async def test_purging_a_pool_leaves_its_leases_alone(store: Connection) -> None:
    assert await publish_pool(store, PoolName("m"), {}, token=1)
    await store.command("SET", "olm:pool:{m}:answer:d", "x")
    await store.command("SET", "olm:pool:{m2}:answer:d", "x")
    assert await Answers(store).purge_pool("m") == 1
    for key in ("olm:pool:{m2}:answer:d", "olm:pool:{m}:slots"):
        assert await store.command("EXISTS", key)


async def test_usage_is_read_by_day_and_pool_or_route(store: Connection) -> None:
    counts = usage.fields(tier="small", caller="ayşe", prompt_tokens=10, completion_tokens=5)
    for _ in range(2):
        await usage.add(store, "auto", "2026-11-21", counts)
    await usage.add(store, "auto", "2026-11-22", usage.fields(tier="cache", cache_hits=1))
    assert await usage.read(store, "2026-11-21") == {
        "auto": {
            "tier:small:requests": 2,
            "tier:small:prompt_tokens": 20,
            "tier:small:completion_tokens": 10,
            "caller:ayşe:requests": 2,
            "caller:ayşe:prompt_tokens": 20,
            "caller:ayşe:completion_tokens": 10,
        }
    }
    assert await usage.read(store, "2026-11-22") == {"auto": {"tier:cache:requests": 1, "tier:cache:cache_hits": 1}}
    assert await usage.read(store, "2026-11-23") == {}


async def test_a_models_cached_answers_are_added_to_what_its_instances_served(store: Connection) -> None:
    day, pool = "2026-11-21", PoolName("llama3.2:3b")
    await publish_pool(store, pool, {}, token=1)
    served = usage.fields(tier="small", instance="a", completion_tokens=7)
    for field, amount in served.items():
        await store.command(b"HINCRBY", pool_usage(pool, day), field, amount)
    await usage.add(store, pool, day, usage.fields(tier="small", cache_hits=1))
    told = (await usage.read(store, day))[pool]
    assert (told["tier:small:requests"], told["tier:small:cache_hits"], told["instance:a:completion_tokens"]) == (
        2,
        1,
        7,
    )
