"""Calls that only load a model: told at once where it is in memory, and as soon as it is where it was not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.core.model import InstanceState, Pool
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, until_queued
from tests.gateway.played import played, pool_of
from tests.gateway.stand_in import standing_in

LOADS = ("/api/generate", "/api/chat", "/api/embed")


async def load(url: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    async with (
        aiohttp.ClientSession() as http,
        http.post(url + path, json={"model": "m", **more}, headers=headers) as reply,
    ):
        return Reply(reply.status, reply.headers, await reply.read())


def in_state(pool: Pool, state: InstanceState) -> Pool:
    return replace(pool, instances=tuple(replace(each, state=state, is_given=True) for each in pool.instances))


async def test_who_loads_a_model_that_is_nowhere_in_memory_is_told_so_once_it_is(tmp_path: Path):
    async with standing_in(1) as (instance,):
        pool = pool_of("m", [instance.port], slots=1)
        cold = in_state(pool, InstanceState.COLD)
        async with played(tmp_path, ClusterSettings.model_validate({"models": {"m": {}}}), [pool]) as world:
            assert (await load(world.url, "/api/chat")).json()["done_reason"] == "load"
            await world.publish([cold])
            await until_state(world.url, InstanceState.COLD)
            asking = [asyncio.create_task(load(world.url, path)) for path in LOADS]
            await until_queued(world.url, len(LOADS))
            late = await load(world.url, "/api/generate", {"X-Queue-Timeout": "0.2"})
            assert late.status == 503
            assert int(late.headers["Retry-After"]) > 0
            assert (await load(world.url, "/api/generate", keep_alive=0)).json()["done_reason"] == "unload"
            assert not any(each.done() for each in asking)
            await world.publish([pool])
            generated, chatted, embedded = await asyncio.gather(*asking)
            assert generated.json()["done_reason"] == chatted.json()["done_reason"] == "load"
            assert embedded.json() == {"model": "m", "embeddings": []}
            assert float(generated.headers["Server-Timing"].split("dur=")[1].split(",")[0]) > 0
            assert not instance.asked, "a load is the controller's own request"
            await world.until_idle()


async def test_who_loads_a_model_whose_servers_are_all_down_is_told_so(tmp_path: Path):
    async with standing_in(1) as (instance,):
        pool = pool_of("m", [instance.port])
        async with played(tmp_path, ClusterSettings.model_validate({"models": {"m": {}}}), [pool]) as world:
            await world.publish([in_state(pool, InstanceState.DOWN)])
            await until_state(world.url, InstanceState.DOWN)
            reply = await load(world.url, "/api/generate")
            assert (reply.status, reply.json()) == (503, {"error": "m has no instance that serves now"})


async def until_state(url: str, state: InstanceState) -> None:
    async with asyncio.timeout(10), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{url}/status.json") as reply:
                (pool,) = (await reply.json())["pools"]
            if {each["state"] for each in pool["instances"]} == {str(state)}:
                return
            await asyncio.sleep(0.02)
