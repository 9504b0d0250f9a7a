"""What a real Ollama was recorded in, with simulated instances behind the gateway: what its clients see of it.

Where the cluster promises more than Ollama does, its promise is asserted in place of what was recorded.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.settings import ClusterSettings
from tests.gateway.played import played, pool_of
from tests.nodes.simulators import free_port
from tests.waiting import until
from tests.wire_gateway import Cluster, differences
from tests.wire_replay import OLDER, Case, Exchange, Scenario, load_cases, send, send_in_turn
from tests.wire_scenarios import (
    WORDS,
    At,
    Plays,
    Simulated,
    as_today,
    changed,
    leave_while_at_work,
    load,
    probe_of,
    ps,
    ps_names,
    storm,
    told,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASES = load_cases()

_ONE_MODEL = "an instance of the cluster holds one model: there is no other to wait for, and none to make room for"
_ONE_NAME = "a pool has instances of its own: a second name of the same weights is a second pool"
NOT_PLAYED = {
    **dict.fromkeys(("load_blocks_others", "evict_simple", "evict_busy", "evict_keep_alive_race"), _ONE_MODEL),
    "alias_shares_runner": _ONE_NAME,
    "delete_loaded_model": "models are the operator's affair: cluster.yaml names them",
}
NOT_PLAYED |= {f"{OLDER.name}/{name}": why for name, why in NOT_PLAYED.items()} | {
    "v0.24.0/token_repeat_cut": "0.24 said the same token 100 times and went on; a simulated instance cuts it",
    "v0.24.0/kill_runner_v1_chat": "0.24 names the role in every frame; a simulated instance in the first",
}
plays = Plays(NOT_PLAYED)
SLOW, FAST = 0.5, 2.0  # tokens are some 5 ms and some 1 ms apart


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("scenarios")
    settings = ClusterSettings.model_validate({
        "models": {"smollm2:135m": {}, "tiny:latest": {}},
        "cache": {"enabled": False},
        "limits": {"first_byte_s": 20, "between_bytes_s": 20},
    })  # fmt: skip
    async with played(folder, settings, [pool_of("smollm2:135m", [free_port()])]) as world:
        yield Cluster(world, folder, CASES)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def test_every_scenario_is_played_or_has_a_reason_not_to_be():
    assert plays.unaccounted() == set()


def alike(case: Case, exchange: Exchange, *, frames: bool = True) -> None:
    assert differences(as_today(case), exchange, tolerate=WORDS, frames=frames) == []


def broken_off(case: Case, exchange: Exchange) -> None:
    """The answer began as recorded, and its client can tell that it is not whole: by an error, and by no clean end."""
    assert exchange.status == 200
    begun = Exchange(**{**as_dict(exchange), "chunks": exchange.chunks[: case.omitted_at or 4], "is_whole": True})
    started = Case(**{**as_dict(case), "chunks": case.chunks[: case.omitted_at or 4], "is_whole": True})
    alike(started, begun)
    assert not exchange.is_whole
    assert b'"error"' in exchange.chunks[-1]
    assert b'"done":true' not in exchange.body
    assert b"[DONE]" not in exchange.body


def as_dict(given: Case | Exchange) -> dict[str, Any]:
    return {name: getattr(given, name) for name in given.__dataclass_fields__}


# --- runners and servers that die ------------------------------------------------------------------------------------


@plays(
    "kill_runner_generate",
    "kill_runner_chat",
    "kill_runner_v1_chat",
    "kill_runner_v1_completions",
    "kill_runner_v1_messages",
    "kill_runner_v1_responses",
)
async def test_a_stream_whose_runner_is_killed_ends_visibly_and_the_next_call_is_answered(recording, cluster, http):
    broken, after = recording.exchanges
    async with cluster.of(recording, speed=FAST) as (instance,):
        await load(http, instance.url)
        exchange = await send(broken, cluster.url, on_chunk=At({5: killing(instance, signal.SIGUSR1)}))
        broken_off(broken, exchange)
        answered = await send(after, cluster.url)
        alike(after, answered)
        assert told(answered)["load_duration"] > 100e6


@plays("server_sigterm_midstream", "server_sigkill_midstream")
async def test_a_stream_whose_server_ends_ends_visibly_and_the_next_call_goes_to_another(recording, cluster, http):
    (broken,) = recording.exchanges
    async with cluster.of(recording, 2, speed=FAST) as instances:
        for each in instances:
            await load(http, each.url)

        async def end() -> None:
            (at_work,) = [each for each in instances if each.is_at_work]
            at_work.process.send_signal(signal.Signals[recording.observed["signal"]])

        broken_off(broken, await send(broken, cluster.url, on_chunk=At({5: end})))
        for _ in range(3):
            probe = changed(CASES["generate_nonstream"], model="smollm2:135m")
            alike(CASES["generate_nonstream"], await send(probe, cluster.url))


@plays("kill_runner_nonstream")
async def test_a_body_whose_runner_is_killed_comes_from_another_instance(recording, cluster, http):
    (asked,) = recording.exchanges
    async with cluster.of(recording, 2, speed=FAST) as instances:
        for each in instances:
            await load(http, each.url)
        answer = asyncio.create_task(send(asked, cluster.url))
        at_work = await first_at_work(instances)
        at_work.process.send_signal(signal.SIGUSR1)
        exchange = await answer
        assert (exchange.status, told(exchange)["done"]) == (200, True)


@plays("kill_runner_idle")
async def test_a_runner_killed_while_idle_costs_the_next_call_a_load_and_no_error(recording, cluster, http):
    _, asked = recording.exchanges
    async with cluster.of(recording) as (instance,):
        await load(http, instance.url)
        instance.process.send_signal(signal.SIGUSR1)
        assert await ps_names(http, instance.url) == ["smollm2:135m"]
        exchange = await send(asked, cluster.url)
        alike(asked, exchange)
        assert told(exchange)["load_duration"] > 100e6


@pytest.mark.parametrize("name", [name for name in CASES if "load_failure" in name])
async def test_a_model_that_no_instance_can_load_is_told_in_the_callers_dialect_with_the_reason(name, cluster):
    case = CASES[name]
    error = json.loads(case.chunks[0])["error"]
    reason = error if isinstance(error, str) else error["message"]
    scenario = Scenario(name, (case,), {}, case.version, case.server_env)
    async with cluster.of(scenario, 2, load_error=reason):
        exchange = await send(case, cluster.url)
        assert exchange.status in (502, 503)
        said = json.loads(exchange.body)
        assert list(said) == list(json.loads(case.chunks[0]))
        assert reason.splitlines()[0] in (said["error"] if isinstance(error, str) else said["error"]["message"])


def killing(instance: Simulated, how: signal.Signals) -> Any:
    async def kill() -> None:
        instance.process.send_signal(how)

    return kill


async def first_at_work(instances: list[Simulated]) -> Simulated:
    waiting = [asyncio.create_task(each.until_at_work()) for each in instances]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    return next(each for each in instances if each.is_at_work)


# --- clients that leave ----------------------------------------------------------------------------------------------


@plays("disconnect_midstream")
async def test_a_client_that_leaves_its_stream_frees_the_slot(recording, cluster, http):
    (left,) = recording.exchanges
    async with cluster.of(recording, speed=FAST) as (instance,):
        await load(http, instance.url)
        exchange = await send(left, cluster.url, leave_after=5)
        alike(left, exchange)
        probe = changed(left, stream=False, options={"num_predict": 1, "seed": 42, "temperature": 0})
        assert (await send(probe, cluster.url)).status == 200


@plays("disconnect_nonstream", "disconnect_prefill")
async def test_a_client_that_leaves_its_body_frees_the_slot(recording, cluster, http):
    (probe,) = recording.exchanges
    options = {"num_predict": 2000, "seed": 1, "temperature": 0.8}
    prompt = "river stone candle winter " * (650 if "prefill" in recording.name else 1)
    async with cluster.of(recording, speed=1.0) as (instance,):
        await load(http, instance.url)
        await leave_while_at_work(changed(probe, prompt=prompt, options=options), cluster.url, instance)
        alike(probe, await send(probe, cluster.url))


@plays("disconnect_storm")
async def test_a_storm_of_clients_that_leave_frees_every_slot(recording, cluster, http):
    async with cluster.of(recording, 3, speed=FAST) as instances:
        for each in instances:
            await load(http, each.url)
        # The slot of each is kept from others for a while, as an engine may need to notice: a fourth of those recorded.
        await storm(recording, cluster.url, recording.observed["disconnects"] // 4)
        alike(probe_of(recording), await send(probe_of(recording), cluster.url))


@plays("disconnect_storm_jammed")
async def test_a_slot_that_an_instance_lost_to_a_client_who_left_costs_no_call(recording, tmp_path, http):
    settings = ClusterSettings.model_validate({
        "models": {"tiny:latest": {}},
        "cache": {"enabled": False},
        "limits": {"first_byte_s": 3, "between_bytes_s": 20},
    })  # fmt: skip
    async with played(tmp_path, settings, [pool_of("tiny:latest", [free_port()])]) as world:
        cluster = Cluster(world, tmp_path, CASES)
        (probe,) = recording.exchanges
        async with cluster.of(recording, 2, speed=FAST, jam_after=1) as instances:
            for each in instances:
                await load(http, each.url, "tiny:latest")
            stream = changed(probe, stream=None, options={"num_predict": 1000, "seed": 1})
            assert (await send(stream, cluster.url, leave_after=5)).status == 200
            for _ in range(4):
                exchange = await send(probe, cluster.url)
                assert exchange.status == recording.observed["after_unload"]


@plays("drain_instead_of_close")
async def test_clients_that_read_to_the_end_are_all_answered_and_so_is_the_next(recording, cluster, http):
    async with cluster.of(recording, speed=100.0) as (instance,):
        await load(http, instance.url)
        stream = changed(probe_of(recording), stream=None, options={"num_predict": 24, "seed": 3})
        for _ in range(15):
            exchanges = await asyncio.gather(*(send(stream, cluster.url) for _ in range(4)))
            assert all(each.status == 200 and each.is_whole and told(each)["done"] for each in exchanges)
        alike(probe_of(recording), await send(probe_of(recording), cluster.url))


# --- overload --------------------------------------------------------------------------------------------------------


@plays("overload_loaded")
async def test_more_calls_than_slots_wait_in_the_clusters_queue_and_are_answered(recording, cluster, http):
    case = recording.exchanges[0]
    async with cluster.of(recording, max_queue=1, speed=20.0) as (instance,):
        await load(http, instance.url)
        for exchange in await asyncio.gather(*(send(case, cluster.url) for _ in range(12))):
            alike(case, exchange)


@plays("overload_loading", "overload_loading_stream")
async def test_calls_to_an_instance_that_loads_are_not_refused_for_it_never_gets_more_than_its_slots(
    recording, cluster
):
    asked = (list(recording.exchanges) * 12)[:12]
    async with cluster.of(recording, max_queue=1, speed=20.0):
        exchanges = await asyncio.gather(*(send(each, cluster.url) for each in asked))
        assert [(each.status, each.is_whole) for each in exchanges] == [(200, True)] * 12


# --- loads -----------------------------------------------------------------------------------------------------------


@plays("load_cold_timing")
async def test_lists_answer_while_a_model_loads(recording, cluster, http):
    (case,) = recording.exchanges
    async with cluster.of(recording, speed=1.0):
        asked = asyncio.create_task(send(case, cluster.url))
        seen = []
        while not asked.done():
            seen.append(await ps_names(http, cluster.url))
            async with http.get(f"{cluster.url}/api/version") as reply:
                assert reply.status == 200
        alike(case, await asked)
        assert seen[0] == recording.observed["polls"][0]["ps_names"] == []


@plays("load_client_gone")
async def test_a_client_that_leaves_while_its_model_loads_leaves_the_slot_to_the_next(recording, cluster, http):
    case = changed(CASES["generate_nonstream"], model="smollm2:135m")
    async with cluster.of(recording, speed=1.0) as (instance,):
        left = asyncio.create_task(send(case, cluster.url))
        await until(cluster.world.in_flight, holds=lambda seen: any(seen.values()))
        left.cancel()
        await asyncio.wait([left])
        assert await ps_names(http, instance.url) == recording.observed["changes"][-1]["ps_names"] == []
        alike(CASES["generate_nonstream"], await send(case, cluster.url))


@plays("two_num_ctx")
async def test_callers_who_ask_for_another_context_load_nothing_anew(recording, cluster, http):
    async with cluster.of(recording) as (instance,):
        await load(http, instance.url)
        for row in recording.observed["rows"]:
            options = {"num_predict": 8, "seed": 42, "temperature": 0, "num_ctx": row["num_ctx"]}
            case = changed(CASES["generate_nonstream"], options={k: v for k, v in options.items() if v is not None})
            exchange = await send(case, cluster.url)
            alike(CASES["generate_nonstream"], exchange)
            assert told(exchange)["load_duration"] < 100e6
            (listed,) = await ps(http, instance.url)
            assert (listed["name"], listed["context_length"]) == ("smollm2:135m", 4096)


@plays("keep_alive_expiry")
async def test_a_callers_keep_alive_unloads_nothing(recording, cluster, http):
    asked, _ = recording.exchanges
    async with cluster.of(recording) as (instance,):
        await load(http, instance.url)
        before = (await ps(http, instance.url))[0]["expires_at"]
        alike(asked, await send(asked, cluster.url))
        assert (await ps(http, instance.url))[0]["expires_at"] >= before


@plays("unload_during_stream")
async def test_a_callers_unload_is_acknowledged_and_neither_cuts_a_stream_nor_unloads_for_others(
    recording, cluster, http
):
    streamed, unloaded = recording.exchanges
    async with cluster.of(recording, speed=SLOW) as (instance,):
        await load(http, instance.url)
        at = At({3: lambda: send(unloaded, cluster.url)})
        alike(streamed, await send(streamed, cluster.url, on_chunk=at))
        alike(unloaded, await at.begun[0])
        assert await ps_names(http, instance.url) == ["smollm2:135m"]


# --- the rest --------------------------------------------------------------------------------------------------------


@plays("token_repeat_cut")
async def test_an_answer_that_ollama_cuts_off_without_a_word_is_said_to_be_cut(recording, cluster):
    async with cluster.of(recording):
        exchange = await send(recording.exchanges[0], cluster.url)
        broken_off(recording.exchanges[0], exchange)


@plays("connection_reuse")
async def test_a_connection_is_kept_from_one_stream_to_the_next(recording, cluster):
    async with cluster.of(recording):
        exchanges = await send_in_turn([CASES["generate_stream"]] * 3, cluster.url)
        assert [each.status_line for each in exchanges] == recording.observed["status_lines"]
        for each in exchanges:
            alike(CASES["generate_stream"], each)
