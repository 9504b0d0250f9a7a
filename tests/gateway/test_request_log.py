"""The request log as gateways write it: one record a call, whatever became of it, and nothing of its text."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.call_record import TYPES
from orchestrator.gateway import request_log
from orchestrator.gateway.identity import ANYBODY
from orchestrator.gateway.request import Request
from orchestrator.gateway.request_log import RequestLog
from orchestrator.gateway.trace import Trace
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.waiting import until

SETTINGS: dict[str, Any] = {
    "models": {"little:1b": {}, "big:8b": {}},
    "tiers": {"small": {"model": "little:1b", "backup": "full"}, "full": {"model": "big:8b"}},
    "routes": {"auto": {}},
}
SECRET = "the canary sings in the mine"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Played]:
    async with AsyncExitStack() as stack:
        instances = await stack.enter_async_context(standing_in(2))
        pools = [pool_of(name, [each.port]) for name, each in zip(SETTINGS["models"], instances, strict=True)]
        settings = ClusterSettings.model_validate(SETTINGS)
        yield await stack.enter_async_context(played(tmp_path, settings, pools))


def records(world: Played) -> list[dict[str, Any]]:
    """In the order in which the calls ended."""
    lines = [line for each in sorted(world.state.glob("calls/*/*.jsonl")) for line in each.read_text().splitlines()]
    return [json.loads(line) for line in lines]


async def until_written(world: Played, n: int) -> list[dict[str, Any]]:
    return await until(lambda: records(world), holds=lambda found: len(found) >= n)


async def test_each_call_is_one_record_of_what_answered_it_and_how_long_that_took(world):
    headers = {"X-Request-Id": "one", "X-Session-Id": "s-1", "User-Agent": "tests/1"}
    await ask(world.url, "/api/chat", "hello", model="auto", headers=headers, stream=True)
    await ask(world.url, "/v1/chat/completions", "hello", model="auto", headers={"X-Request-Id": "two"}, stream=False)
    await ask(world.url, "/api/chat", "hello", model="none", headers={"X-Request-Id": "three"}, stream=False)
    first, second, third = await until_written(world, 3)
    assert tuple(first) == tuple(TYPES)
    assert (first["id"], first["session"], first["agent"], first["caller"]) == ("one", "s-1", "tests/1", "anonymous")
    assert (first["model"], first["tier"], first["outcome"], first["status"]) == ("auto", "small", "ok", 200)
    assert first["stream"]
    assert first["completion_tokens"] > 0
    assert 0 < first["first_byte_ms"] <= first["total_ms"]
    assert (second["tier"], second["cache"], second["cached_tokens"]) == ("cache", "hit", first["prompt_tokens"])
    assert second["completion_tokens"] == first["completion_tokens"]
    assert (third["outcome"], third["status"], third["tier"]) == ("CallerError", 404, "")


async def test_a_caller_who_leaves_is_a_record_too(world, tmp_path):
    async with aiohttp.ClientSession() as http:
        body = {"model": "little:1b", "messages": [{"role": "user", "content": "say much"}], "stream": True}
        async with http.post(f"{world.url}/api/chat", json=body) as reply:
            await reply.content.readany()
            reply.close()
    (left,) = await until_written(world, 1)
    assert left["outcome"] in ("gone", "ok")  # it may have been quicker than the caller
    await world.until_idle()


async def test_nothing_of_what_was_asked_or_answered_is_in_it_and_nobody_else_may_read_it(world):
    answered = await ask(world.url, "/api/chat", SECRET, model="auto", stream=False)
    await ask(world.url, "/api/chat", SECRET, model="none", stream=False)
    await until_written(world, 2)
    files = list(world.state.glob("calls/*/*.jsonl"))
    kept = "".join(each.read_text() for each in files)
    assert SECRET not in kept
    assert str(answered.text)[:40] not in kept
    private = (*files, *(each.parent for each in files), world.state / "calls")
    assert all(each.stat().st_mode & 0o077 == 0 for each in private)


async def test_names_that_callers_chose_give_no_orders_to_a_terminal(world):
    headers = {"User-Agent": "tests\u009b2J\u202e", "X-Session-Id": "Oturum ş"}
    await ask(world.url, "/api/chat", "hello", model="auto", headers=headers, stream=False)
    (found,) = await until_written(world, 1)
    assert (found["agent"], found["session"]) == ("tests?2J?", "Oturum ş")


async def test_lists_and_pages_are_no_calls(world):
    async with aiohttp.ClientSession() as http:
        for path in ("/api/tags", "/healthz", "/status.json", "/v1/models"):
            async with http.get(world.url + path) as reply:
                await reply.read()
    await ask(world.url, "/api/chat", "hello", model="auto", stream=False)
    assert [each["path"] for each in await until_written(world, 1)] == ["/api/chat"]


async def test_it_is_switched_off_without_a_restart(world):
    off = ClusterSettings.model_validate({**SETTINGS, "request_log": {"enabled": False}})
    settings_in_use.write(StatePaths(world.state), off)
    os.kill(world.gateways[0].pid, signal.SIGHUP)
    await until(lambda: "settings taken over" in world.logs())
    await ask(world.url, "/api/chat", "unseen", model="auto", headers={"X-Request-Id": "unseen"}, stream=False)
    world.gateways[0].send_signal(signal.SIGTERM)
    await asyncio.to_thread(world.gateways[0].wait, 20)
    assert records(world) == []


async def test_a_disk_that_takes_nothing_costs_no_call_and_what_was_kept_is_written_once_it_does(world):
    blocked = world.state / "calls"
    blocked.write_text("a file where the folder should be")
    replies = [await ask(world.url, "/api/chat", f"question {n}", model="auto", stream=False) for n in range(3)]
    assert all(each.status == 200 for each in replies)
    await until(lambda: "the request log cannot be written, calls go on" in world.logs())
    blocked.unlink()
    assert len(await until_written(world, 3)) == 3
    assert "the request log is written again" in world.logs()


async def test_what_was_answered_last_is_written_as_a_gateway_ends(world):
    await ask(world.url, "/api/chat", "hello", model="auto", stream=False)
    world.gateways[0].send_signal(signal.SIGTERM)
    await asyncio.to_thread(world.gateways[0].wait, 20)
    assert len(records(world)) == 1


async def test_a_machine_that_has_no_thread_to_spare_loses_no_record(tmp_path: Path, monkeypatch) -> None:
    to_thread, refused = asyncio.to_thread, []

    async def seldom(*args: Any) -> Any:
        if not refused:
            refused.append(args)
            raise RuntimeError("can't start new thread")
        return await to_thread(*args)

    monkeypatch.setattr(request_log, "WRITE_EVERY_S", 0.01)
    monkeypatch.setattr(request_log.asyncio, "to_thread", seldom)
    log = RequestLog(tmp_path, "w", lambda: True)
    log.add(Request(cast(Any, None)), Trace("one", 0.0, ANYBODY), 200)
    log.start()
    written = await until(lambda: [json.loads(each.read_text()) for each in tmp_path.glob("*/*.jsonl")])
    await log.close()
    assert [each["id"] for each in written] == ["one"]
    assert refused
