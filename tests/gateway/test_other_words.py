"""Generated answers for questions in other words, where a route gives them; and answers that several machines share."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.settings import ClusterSettings
from orchestrator.store.questions import Questions
from tests.gateway.asking import STREAMS, Reply, ask, get
from tests.gateway.played import Played
from tests.gateway.test_answer_cache import (
    ADMIN,
    KEYS,
    SEALED,
    SETTINGS,
    auto,
    bearer,
    grow_older,
    report,
    start,
    status_of,
    until_kept,
)
from tests.waiting import until

__all__ = ["start"]  # a fixture

ON = {"routes": {"auto": {"cache_paraphrases": True}}}
SHARED = {"routes": {"auto": {"cache_paraphrases": True, "cache_shared": True}}}
LIMIT, LIMIT_TOO = "What is the speed limit in town?", "what's the speed limit in towns"
OTHER = "What is the speed limit on a motorway?"


async def learnt(world: Played, n: int = 1) -> list[bytes]:
    """The streams of questions, once they have so many entries."""

    async def lengths() -> dict[bytes, int]:
        found = await world.connection.command("KEYS", "olm:questions:*")
        return {each: await world.connection.command("XLEN", each) for each in found}

    return list(await until(lengths, holds=lambda seen: sum(seen.values()) == n))


async def taught(world: Played, text: str = LIMIT, **more: Any) -> Reply:
    reply = await auto(world, text, **more)
    assert reply.cache == "miss"
    await learnt(world)
    return reply


async def test_a_question_in_other_words_is_given_the_answer_of_the_first_and_says_so(start):
    world, (little, _) = await start(**ON)
    first = await taught(world)
    for is_stream in (False, True):
        hit = await auto(world, LIMIT_TOO, stream=is_stream)
        word, layer, age, likeness = hit.headers["X-Cache"].split("; ")
        assert (word, layer, hit.text) == ("hit", "layer=paraphrase", first.text)
        assert age.startswith("age=")
        assert float(likeness.removeprefix("likeness=")) >= 0.8
    assert (await auto(world, OTHER)).cache == "miss"
    assert len(little.asked) == 2
    told = await status_of(world, lambda told: told["hits"].get("paraphrase:fresh") == 2)
    assert told["misses"]["paraphrase:none_alike"] == 2
    assert (
        'olm_cache_hits_total{how="fresh",layer="paraphrase"} 2.0' in (await get(world.url, "/metrics")).body.decode()
    )


async def test_the_exact_answer_goes_before_and_what_was_given_is_not_kept_a_second_time(start):
    world, _ = await start(**ON)
    await taught(world)
    await auto(world, LIMIT_TOO)
    await until_kept(world, 1)
    assert "layer=exact" in (await auto(world, LIMIT)).headers["X-Cache"]


async def test_without_the_routes_word_only_the_same_question_is_a_hit(start):
    world, (little, _) = await start(routes={"auto": {}, "wide": {"cache_paraphrases": True}})
    assert [(await auto(world, text)).cache for text in (LIMIT, LIMIT_TOO)] == ["miss", "miss"]
    assert len(little.asked) == 2
    assert not await world.connection.command("KEYS", "olm:questions:*")


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"temperature": 0}},
        {"options": {"num_predict": 9}},
        {"think": False},
        {"format": "json"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": LIMIT_TOO}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": LIMIT_TOO}]},
        {"something": "new"},
        {"headers": {"Cache-Control": "no-cache"}},
        {"headers": {"Cache-Control": "no-store"}},
        {"headers": {"Cache-Control": "max-age=50"}},
    ],
)
async def test_a_call_that_asks_for_anything_else_is_answered_anew(start, more):
    world, (little, _) = await start(**ON)
    await taught(world)
    await grow_older(world, 100)
    assert (await auto(world, LIMIT_TOO, **more)).cache != "hit"
    assert len(little.asked) == 2
    assert (await auto(world, LIMIT_TOO.upper().lower())).cache == "hit"


async def test_other_words_are_known_to_the_path_that_was_asked_alone(start):
    world, _ = await start(**ON)
    await taught(world)
    told = {path: (await ask(world.url, path, LIMIT_TOO, model="auto", stream=False)).headers for path in STREAMS}
    assert {path for path, headers in told.items() if "layer=paraphrase" in headers["X-Cache"]} == {"/api/chat"}


async def test_an_answer_that_ended_is_given_to_nobody_in_other_words(start):
    world, (little, _) = await start(**ON)
    await taught(world)
    (place,) = await until_kept(world)
    await world.connection.command("DEL", place)
    assert (await auto(world, LIMIT_TOO)).cache == "miss"
    assert len(little.asked) == 2


@pytest.mark.parametrize(("settings", "seen"), [(ON, ["miss", "hit"]), (SHARED, ["hit", "hit"])])
async def test_one_tenants_questions_are_answered_to_itself_alone_unless_the_route_shares(start, settings, seen):
    world, _ = await start(**settings, keys=KEYS)
    await taught(world, who="a")
    assert [(await auto(world, LIMIT_TOO, who=who)).cache for who in "ba"] == seen


async def test_all_workers_know_what_one_has_answered(start):
    world, (little, _) = await start(2, **ON)
    await taught(world)
    replies = [await auto(world, LIMIT_TOO) for _ in range(12)]
    assert {each.cache for each in replies} == {"hit"}
    assert len(little.asked) == 1


async def test_a_wrong_one_is_reported_by_who_was_given_it_and_the_two_are_never_one_again(start):
    world, (little, _) = await start(**ON, keys=[*KEYS, ADMIN])
    await taught(world, who="a")
    hit = await auto(world, LIMIT_TOO, who="a")
    assert (await report(world, hit.headers["X-Cache-Key"], "b")).status == 404
    told = await report(world, hit.headers["X-Cache-Key"], "a")
    assert (told.status, told.json()) == (200, {"status": "dropped", "layer": "paraphrase"})
    for text in (LIMIT, LIMIT_TOO):
        assert (await auto(world, text, who="a")).cache == "miss"
    assert len(little.asked) == 3
    for text in (LIMIT, LIMIT_TOO):
        assert "layer=exact" in (await auto(world, text, who="a")).headers["X-Cache"]
    metrics = (await get(world.url, "/metrics", headers=bearer("o"))).body.decode()
    assert 'olm_cache_false_hits_total{layer="paraphrase"} 1.0' in metrics


async def test_where_answers_are_sealed_so_are_questions(start):
    world, _ = await start(**ON, cache=SEALED)
    await taught(world)
    (stream,) = await learnt(world)
    assert b"speed" not in b"".join((await world.connection.command("XRANGE", stream, "-", "+"))[0][1])
    assert (await auto(world, LIMIT_TOO)).cache == "hit"


async def test_a_question_planted_in_redis_is_passed_over(start):
    world, _ = await start(**ON, cache=SEALED)
    await taught(world)
    (stream,) = await learnt(world)
    ((_, fields),) = await world.connection.command("XRANGE", stream, "-", "+")
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    for text in (b"where is the library", b"\x01rubbish", b""):
        await world.connection.command("XADD", stream, "*", "d", told[b"d"], "f", told[b"f"], "q", text)
    assert (await auto(world, "where is the library?")).cache == "miss"
    assert (await auto(world, LIMIT_TOO)).cache == "hit"


async def test_a_purge_takes_the_questions_along(start):
    world, _ = await start(**ON)
    await taught(world)
    await auto(world, OTHER)
    (stream,) = await learnt(world, 2)
    for left, place in enumerate(reversed(await until_kept(world, 2))):
        await world.connection.command("DEL", place)
        await Questions(world.connection).forget_lost()
        assert await world.connection.command("XLEN", stream) == 1 - left
    assert not await world.connection.command("EXISTS", stream)


@pytest.mark.parametrize("text", ["How do you say safe in Turkish?", "x" * 300, "hello"])
async def test_what_is_no_plain_question_is_never_learnt(start, text):
    world, _ = await start(**ON)
    await auto(world, text)
    await taught(world)


async def test_two_that_only_look_alike_are_answered_each_by_itself(start):
    world, (little, _) = await start(**ON)
    await taught(world, "Is it safe to swim here?")
    for text in ("Is it not safe to swim here?", "Was it safe to swim here?", "Is it safe to swim there?"):
        assert (await auto(world, text)).cache == "miss"
    assert len(little.asked) == 4


async def test_gateways_of_two_state_folders_share_answers_where_they_have_one_secret(start):
    """The same Redis, the same secret in the settings, another folder's own key."""
    from orchestrator.app.cache_desk import Desk, question_call
    from orchestrator.core.model import Endpoint

    world, _ = await start(**ON, cache={"secret": "s" * 32})
    await taught(world)

    async def verdicts(secret: str) -> list[str]:
        settings = ClusterSettings.model_validate({**SETTINGS, **ON, "cache": {"secret": secret}})
        desk = Desk(settings, world.connection, b"another folder's")
        await desk.look()
        calls = [question_call(text, "auto", Endpoint.OLLAMA_CHAT) for text in (LIMIT, LIMIT_TOO)]
        steps = [await desk.explain(call, desk.first_caller) for call in calls]
        return [step.verdict for each in steps for step in each if step.layer != "faq"]

    assert rules_from(ClusterSettings.model_validate(SETTINGS)).cache.secret == b""
    assert await verdicts("s" * 32) == ["hit", "miss", "miss", "hit"]
    assert await verdicts("t" * 32) == ["miss"] * 4
