"""`ollamactl cache` beside a gateway that serves: what it shows, explains, forgets and prepares."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import ClusterSettings
from orchestrator.store.embedded import find_server
from tests.gateway.asking import Reply, ask
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.store.playing import Server
from tests.waiting import until

KEYS = {"ops": "o" * 16, "desk": "d" * 16}
FAQ = "- questions: [otoyol hız limiti]\n  answer: 120 km/h\n  language: tr\n"


async def ollamactl(world: Played, *args: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "orchestrator.cli", "cache", *args, "--state", str(world.state)]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "OLLAMACTL_KEY": KEYS["ops"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Played]:
    """One worker before one stand-in, and a Redis whose address the settings have, as operators' commands need it."""
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    (tmp_path / "store").mkdir()
    redis = Server(find_server(), tmp_path / "store")
    redis.start()
    settings = ClusterSettings.model_validate(
        {
            "redis": redis.url,
            "models": {"m": {}},
            "tiers": {"small": {"model": "m"}, "full": {"model": "m"}},
            "routes": {"auto": {}},
            "keys": [{"name": name, "secret": secret, "admin": name == "ops"} for name, secret in KEYS.items()],
            "cache": {"faq": [str(tmp_path / "faq.yaml")], "encryption_key": "0123456789abcdef"},
        }
    )
    async with AsyncExitStack() as stack:
        stack.callback(redis.kill)
        (instance,) = await stack.enter_async_context(standing_in(1))
        pools = [pool_of("m", [instance.port])]
        yield await stack.enter_async_context(played(tmp_path, settings, pools, redis=redis))


async def asked(world: Played, text: str, who: str = "ops", model: str = "auto", **more: Any) -> Reply:
    headers = {"Authorization": f"Bearer {KEYS[who]}", **more.pop("headers", {})}
    return await ask(world.url, "/api/chat", text, model=model, stream=False, headers=headers, **more)


async def until_answers(world: Played, n: int) -> dict[str, Any]:
    """Wait until the books have so many."""

    async def told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await ollamactl(world, "stats", "--json"))[1])
        return found

    return await until(told, holds=lambda seen: seen["answers"] == n)


async def test_stats_tell_what_is_on_whose_answers_there_are_and_why_calls_missed(world):
    await asked(world, "hello", headers={"X-Cache-Tags": "law, 2026"})
    await asked(world, "hello", "desk")
    await asked(world, "hi", model="m")
    told = await until_answers(world, 2)
    assert (told["by_scope"], told["by_key"]) == ({"auto": 2}, {"ops": 1, "desk": 1})
    assert told["by_tag"] == {"law": 1, "2026": 1}
    assert told["misses"] == {"exact:absent": 2, "exact:drawn": 1, "faq:no_entry": 2}
    _, shown = await ollamactl(world, "stats")
    assert "ON  faq: 1 entries, with paraphrases" in shown
    assert "2 answers," in shown
    assert "sealed" in shown


async def test_explain_tells_layer_by_layer_why_a_question_hits_or_misses(world):
    code, told = await ollamactl(world, "explain", "otobanda hız sınırı nedir")
    assert (code, told.startswith("hit faq: faq.yaml:1; match=paraphrase")) == (0, True)
    await asked(world, "hello", "desk")
    code, told = await ollamactl(world, "explain", "hello")
    assert code == 1
    assert "miss faq: no entry asks this" in told
    assert "miss exact: nothing is kept under its key" in told
    assert "kept, however, for API key desk" in told
    code, told = await ollamactl(world, "explain", "hello", "--as", "desk")
    assert (code, "hit exact: kept" in told) == (0, True)
    code, told = await ollamactl(world, "explain", "hello", "--as", "desk", "--path", "/v1/chat/completions")
    assert (code, "hit exact: kept" in told) == (0, True)
    code, told = await ollamactl(world, "explain", "hello", "--model", "m")
    assert (code, "not asked exact: they ask for no certain answer" in told) == (1, True)


async def test_explain_takes_a_whole_request_as_the_gateway_would(world, tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "options": {"temperature": 0}}
    (tmp_path / "body.json").write_text(json.dumps(body), encoding="utf-8")
    arguments = ("explain", "--body", str(tmp_path / "body.json"), "--json")
    assert json.loads((await ollamactl(world, *arguments))[1])["is_hit"] is False
    await asked(world, "hi", model="m", options={"temperature": 0})
    assert json.loads((await ollamactl(world, *arguments))[1])["is_hit"] is True


async def test_get_shows_an_answer_by_the_key_its_caller_was_given(world):
    await asked(world, "hello")
    hit = await asked(world, "hello")
    await until_answers(world, 1)
    code, told = await ollamactl(world, "get", hit.headers["X-Cache-Key"])
    assert code == 0
    assert "one two three" in told
    assert "tenant: ops" in told
    assert (await ollamactl(world, "get", "0123"))[0] == 1


async def test_purge_forgets_what_all_its_options_name_and_nothing_else(world):
    for who, tag in (("ops", "law"), ("desk", "law"), ("desk", "")):
        await asked(world, f"hello {tag}", who, headers={"X-Cache-Tags": tag})
    await asked(world, "hi", model="m", options={"temperature": 0})
    await until_answers(world, 4)
    for arguments, gone in (
        (("--tag", "law", "--for", "desk"), 1),
        (("--older-than", "1h"), 0),
        (("--model", "m"), 1),
        (("--older-than", "0s"), 2),
    ):
        assert await ollamactl(world, "purge", *arguments) == (0, f"{gone} answer{'s' * (gone != 1)} forgotten\n")
    assert (await asked(world, "hello law")).cache == "miss"
    assert (await ollamactl(world, "purge"))[0] == 2
    assert (await ollamactl(world, "purge", "--all", "--tag", "law"))[0] == 2
    await until_answers(world, 1)
    assert await ollamactl(world, "purge", "--all") == (0, "1 answer forgotten\n")


async def test_warm_has_questions_answered_before_anybody_asks_them(world, tmp_path):
    (tmp_path / "questions.txt").write_text("# first of all\nhello\n\nhi there\notoyol hız limiti\n", encoding="utf-8")
    arguments = ("warm", str(tmp_path / "questions.txt"), "--endpoint", world.url.removeprefix("http://"))
    assert (await ollamactl(world, *arguments))[1].startswith("3 questions: 2 answered and kept, 0 kept already, 1 by")
    assert (await ollamactl(world, *arguments))[1].startswith("3 questions: 0 answered and kept, 2 kept already, 1 by")
    assert (await asked(world, "hi there")).cache == "hit"
    code, told = await ollamactl(world, "warm", arguments[1], "--endpoint", "127.0.0.1:1")
    assert (code, "127.0.0.1:1 does not answer" in told) == (4, True)


async def test_a_folder_without_a_cluster_and_a_redis_that_is_away_are_said_in_one_line(world, tmp_path):
    world.state = tmp_path / "nothing"
    code, told = await ollamactl(world, "stats")
    assert (code, told.count("\n"), "no cluster was started with --state" in told) == (1, 1, True)
