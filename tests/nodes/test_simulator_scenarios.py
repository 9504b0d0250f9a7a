"""A simulated Ollama goes through what a real one was recorded in: kills, overload, leaving clients, loads, evictions.

Durations are not compared: where a recording shows that something was not waited for, the simulated times tell it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.nodes.simulators import free_port, running
from tests.waiting import until
from tests.wire_replay import Case, Exchange, Scenario, compare, load_cases, replay_config, send, send_in_turn
from tests.wire_scenarios import (
    WORDS,
    At,
    Plays,
    Simulated,
    as_today,
    changed,
    leave_while_at_work,
    load,
    of_any_length,
    outcomes,
    probe_of,
    ps,
    ps_names,
    simulated,
    storm,
    told,
    unload_all,
    waited_s,
)
from tests.wire_script import scripted_answers

CASES = load_cases()

NOT_PLAYED = {
    "delete_loaded_model": "models are not deleted on the cluster's instances",
    "v0.24.0/delete_loaded_model": "models are not deleted on the cluster's instances",
    "v0.24.0/token_repeat_cut": "0.24 said the same token 100 times and went on; the simulator cuts it as 0.33 did",
    "v0.24.0/kill_runner_v1_chat": "0.24 names the role in every frame; the simulator in the first, as 0.33 did",
}
plays = Plays(NOT_PLAYED)
# Of the models in the older recordings, whose runner has other buffers.
SIZES = frozenset({"size", "digest"})
# A tenth of a second for 20 tokens or so: time for what happens beside a short stream.
SLOW = 0.5
# For streams of 2000 tokens, which are not waited for.
FAST = 2.0


Start = Callable[..., Simulated]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(recording: Scenario, **changes: Any) -> Simulated:
            return stack.enter_context(simulated(recording, CASES, tmp_path, **changes))

        yield begin


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def test_every_scenario_is_played_or_has_a_reason_not_to_be():
    assert plays.unaccounted() == set()


def alike(case: Case, exchange: Exchange) -> None:
    tolerated = WORDS | (SIZES if case.is_older else set())
    assert compare(as_today(case), exchange, tolerate=tolerated) == []


# --- runners and servers that die ------------------------------------------------------------------------------------


@plays(
    "kill_runner_generate",
    "kill_runner_chat",
    "kill_runner_v1_chat",
    "kill_runner_v1_completions",
    "kill_runner_v1_messages",
    "kill_runner_v1_responses",
)
async def test_a_stream_whose_runner_is_killed_breaks_off_as_recorded_and_the_next_request_loads_it(
    recording, start, http
):
    instance = start(recording, speed=FAST)
    await load(http, instance.url)

    async def kill() -> None:
        instance.process.send_signal(signal.SIGUSR1)

    broken = await send(recording.exchanges[0], instance.url, on_chunk=At({5: kill}))
    alike(of_any_length(recording.exchanges[0]), broken)
    assert await ps_names(http, instance.url) == recording.observed["ps_right_after"]
    answered = await send(recording.exchanges[1], instance.url)
    alike(recording.exchanges[1], answered)
    assert told(answered)["load_duration"] > 100e6


@plays("kill_runner_nonstream")
async def test_a_body_whose_runner_is_killed_is_a_500(recording, start, http):
    instance = start(recording, speed=FAST)
    await load(http, instance.url)
    asked = asyncio.create_task(send(recording.exchanges[0], instance.url))
    await instance.until_at_work()
    instance.process.send_signal(signal.SIGUSR1)
    alike(recording.exchanges[0], await asked)


@plays("kill_runner_idle")
async def test_a_runner_killed_while_idle_is_listed_on_and_loaded_by_the_next_request(recording, start, http):
    instance = start(recording)
    await load(http, instance.url)
    instance.process.send_signal(signal.SIGUSR1)
    listed, answered = recording.exchanges
    alike(listed, await send(listed, instance.url))
    exchange = await send(answered, instance.url)
    alike(answered, exchange)
    assert told(exchange)["load_duration"] > 100e6


@plays("server_sigterm_midstream", "server_sigkill_midstream")
async def test_a_server_that_ends_cuts_its_streams_without_a_terminator(recording, start, http):
    instance = start(recording, speed=FAST)
    await load(http, instance.url)

    async def end() -> None:
        instance.process.send_signal(signal.Signals[recording.observed["signal"]])

    alike(
        of_any_length(recording.exchanges[0]), await send(recording.exchanges[0], instance.url, on_chunk=At({5: end}))
    )
    await asyncio.to_thread(instance.process.wait, 10)


# --- clients that leave ----------------------------------------------------------------------------------------------


@plays("disconnect_midstream")
async def test_a_client_that_leaves_its_stream_frees_the_slot(recording, start, http):
    instance = start(recording, speed=FAST)
    await load(http, instance.url)
    (left,) = recording.exchanges
    exchange = await send(left, instance.url, leave_after=5)
    alike(left, exchange)
    probe = changed(left, stream=False, options={"num_predict": 1, "seed": 42, "temperature": 0})
    assert waited_s(told(await send(probe, instance.url))) < 0.1


@plays("disconnect_nonstream")
async def test_a_client_that_leaves_its_body_frees_the_slot(recording, start, http):
    instance = start(recording, speed=FAST)
    await load(http, instance.url)
    (probe,) = recording.exchanges
    left = changed(probe, options={"num_predict": 2000, "seed": 1, "temperature": 0.8})
    await leave_while_at_work(left, instance.url, instance)
    exchange = await send(probe, instance.url)
    alike(probe, exchange)
    assert waited_s(told(exchange)) < 0.1


@plays("disconnect_prefill")
async def test_a_client_that_leaves_while_its_prompt_is_read_frees_the_slot_long_before_the_end(recording, start, http):
    instance = start(recording, speed=1.0)
    await load(http, instance.url)
    (probe,) = recording.exchanges
    long = changed(probe, prompt="river stone candle winter " * 650)
    whole = told(await send(long, instance.url))
    await leave_while_at_work(changed(long, prompt="harbour engine paper silver " * 650), instance.url, instance)
    exchange = await send(probe, instance.url)
    alike(probe, exchange)
    assert waited_s(told(exchange)) < whole["prompt_eval_duration"] / 1e9 / 2


@plays("disconnect_storm")
async def test_a_storm_of_clients_that_leave_frees_every_slot(recording, start, http):
    instance = start(recording, speed=4.0)
    await load(http, instance.url)
    await storm(recording, instance.url, recording.observed["disconnects"])
    exchange = await asyncio.wait_for(send(probe_of(recording), instance.url), 10)
    alike(probe_of(recording), exchange)


@plays("disconnect_storm_jammed")
async def test_a_slot_that_clients_who_left_have_jammed_is_freed_by_an_unload_alone(recording, start, http):
    instance = start(recording, speed=4.0, jam_after=recording.observed["disconnects"])
    (probe,) = recording.exchanges
    await load(http, instance.url, "smollm2:135m")
    await load(http, instance.url, "tiny:latest")
    await storm(recording, instance.url, recording.observed["disconnects"])
    unanswered = asyncio.create_task(send(probe, instance.url))
    assert sorted(await ps_names(http, instance.url)) == sorted(recording.observed["ps_while_jammed"])
    other = await send(changed(probe, model="smollm2:135m"), instance.url)
    assert other.status == 200
    assert not unanswered.done()
    unanswered.cancel()
    await asyncio.wait([unanswered])
    await load(http, instance.url, "tiny:latest", keep_alive=0)
    assert (await asyncio.wait_for(send(probe, instance.url), 10)).status == recording.observed["after_unload"]


@plays("drain_instead_of_close")
async def test_clients_that_read_to_the_end_are_all_answered_and_so_is_the_next(recording, start, http):
    instance = start(recording, speed=100.0)
    await load(http, instance.url)
    stream = changed(probe_of(recording), stream=None, options={"num_predict": 24, "seed": 3})
    for _ in range(15):
        exchanges = await asyncio.gather(*(send(stream, instance.url) for _ in range(4)))
        assert all(each.status == 200 and each.is_whole and told(each)["done"] for each in exchanges)
    alike(probe_of(recording), await send(probe_of(recording), instance.url))


# --- overload --------------------------------------------------------------------------------------------------------


@plays("overload_loaded")
async def test_more_requests_than_slots_to_a_loaded_model_wait_without_bound(recording, start, http):
    instance = start(recording, max_queue=1, speed=1.0)
    await load(http, instance.url)
    exchanges = await asyncio.gather(*(send(recording.exchanges[0], instance.url) for _ in range(12)))
    for each in exchanges:
        alike(recording.exchanges[0], each)
    assert outcomes(exchanges) == recording.observed["outcomes"]
    assert max(waited_s(told(each)) for each in exchanges) > 0.05


@plays("overload_loading", "overload_loading_stream")
async def test_more_requests_than_the_queue_holds_to_a_model_that_loads_are_refused(recording, start):
    instance = start(recording, max_queue=1, speed=2.0)
    asked = (list(recording.exchanges) * 12)[:12]
    exchanges = await asyncio.gather(*(send(each, instance.url) for each in asked))
    assert outcomes(exchanges) == recording.observed["outcomes"]
    recorded = {(each.path, each.status): each for each in recording.exchanges}
    for case, exchange in zip(asked, exchanges, strict=True):
        if (case.path, exchange.status) in recorded:
            alike(recorded[case.path, exchange.status], exchange)


# --- loads -----------------------------------------------------------------------------------------------------------


@plays("load_cold_timing")
async def test_lists_answer_while_a_model_loads_and_do_not_name_it(recording, start, http):
    instance = start(recording, speed=1.0)
    asked = asyncio.create_task(send(recording.exchanges[0], instance.url))
    seen = []
    while not asked.done():
        names = await ps_names(http, instance.url)
        async with http.get(f"{instance.url}/api/version") as reply:
            assert reply.status == 200
        seen.append(names)
    alike(recording.exchanges[0], await asked)
    assert seen[0] == recording.observed["polls"][0]["ps_names"] == []


@plays("load_client_gone")
async def test_a_load_is_given_up_when_its_client_leaves(recording, start, http):
    # A load of 98 MB takes 12 s, one of 7 MB less than one.
    instance = start(recording, speed=10.0, load_bandwidth_bytes_s=8e5)
    asked = asyncio.create_task(send(changed(CASES["generate_nonstream"], model="smollm2:135m"), instance.url))
    assert await ps_names(http, instance.url) == []
    asked.cancel()
    await asyncio.wait([asked])
    assert await ps_names(http, instance.url) == recording.observed["changes"][-1]["ps_names"] == []
    # The loader is free for the next, and the other is never seen.
    await load(http, instance.url, "tiny:latest")
    assert await ps_names(http, instance.url) == ["tiny:latest"]


@plays("load_blocks_others")
async def test_a_load_lets_requests_to_loaded_models_pass_and_holds_up_other_loads(recording, start, http):
    instance = start(recording, speed=1.0)
    await load(http, instance.url, "tiny:latest")
    answered: list[str] = []

    async def ask(name: str, path: str, **body: Any) -> None:
        async with http.post(f"{instance.url}{path}", json=body) as reply:
            assert reply.status == 200
            await reply.read()
        answered.append(name)

    options = {"num_predict": 2, "seed": 42, "temperature": 0}
    loading = ask("b_cold", "/api/generate", model="smollm2:135m", prompt="hi", stream=False, options=options)
    tasks = [asyncio.create_task(loading)]
    await ps(http, instance.url)  # a round trip later it has arrived
    beside = ask("a_loaded", "/api/generate", model="tiny:latest", prompt="hi", stream=False, options=options)
    tasks += [
        asyncio.create_task(each) for each in (beside, ask("c_cold", "/api/embed", model="tiny-embed", input="x"))
    ]
    await asyncio.gather(*tasks)
    recorded = {name: each["answered_ms"] for name, each in recording.observed.items() if name != "ps_after"}
    if recording.is_older:  # its load was done before the request beside it came
        assert answered.index("c_cold") == sorted(recorded, key=recorded.__getitem__).index("c_cold")
    else:
        assert answered == sorted(recorded, key=recorded.__getitem__)
    assert len(await ps_names(http, instance.url)) == len(recording.observed["ps_after"])


@plays("two_num_ctx")
async def test_another_context_loads_the_model_again_with_another_size(recording, start, http):
    instance = start(recording)
    await unload_all(http, instance.url)
    for row in recording.observed["rows"]:
        options = {"num_predict": 8, "seed": 42, "temperature": 0, "num_ctx": row["num_ctx"]}
        case = changed(CASES["generate_nonstream"], options={k: v for k, v in options.items() if v is not None})
        assert told(await send(case, instance.url))["load_duration"] > 100e6
        (listed,) = await ps(http, instance.url)
        ((name, context, size),) = row["ps"]
        assert (listed["name"], listed["context_length"]) == (name, context)
        assert recording.is_older or listed["size"] == size


@plays("alias_shares_runner")
async def test_two_names_of_the_same_weights_share_a_runner(recording, start, http, tmp_path):
    config = replay_config(free_port(), CASES, version=recording.version)
    named = next(each for each in config.models if each.name == "smollm2:135m")
    both = (replace(named, weights_digest="w"), replace(named, name="wire-alias:latest", weights_digest="w"))
    config = replace(config, models=both, script=tuple(scripted_answers([*CASES.values(), *recording.exchanges])))
    with running(config, tmp_path):
        url = f"http://127.0.0.1:{config.port}"
        await load(http, url)
        assert await ps_names(http, url) == recording.observed["ps_before"]
        asked, _ = recording.exchanges
        exchange = await send(asked, url)
        alike(asked, exchange)
        assert told(exchange)["load_duration"] < 100e6
        assert await ps_names(http, url) == recording.observed["ps_after"]


@plays("keep_alive_expiry")
async def test_a_model_goes_when_its_keep_alive_is_over(recording, start, http):
    instance = start(recording)
    asked, listed = recording.exchanges
    alike(asked, await send(asked, instance.url))
    assert [each["name"] for each in told(await send(listed, instance.url))["models"]] == ["smollm2:135m"]
    await until(lambda: ps_names(http, instance.url), holds=lambda seen: not seen)


@plays("unload_during_stream")
async def test_an_unload_lets_the_stream_under_way_finish_and_the_model_goes_then(recording, start, http):
    instance = start(recording, speed=SLOW)
    await load(http, instance.url)
    streamed, unloaded = recording.exchanges
    at = At({3: lambda: send(unloaded, instance.url)})
    alike(streamed, await send(streamed, instance.url, on_chunk=at))
    alike(unloaded, await at.begun[0])
    assert await ps_names(http, instance.url) == recording.observed["ps_after"] == []


# --- evictions -------------------------------------------------------------------------------------------------------


@plays("evict_simple")
async def test_an_idle_model_makes_room_for_the_one_asked_for(recording, start, http):
    instance = start(recording, max_loaded_models=1)
    await load(http, instance.url)
    alike(recording.exchanges[0], await send(recording.exchanges[0], instance.url))
    assert await ps_names(http, instance.url) == recording.observed["ps_after"]


@plays("evict_busy")
async def test_a_model_that_is_busy_without_a_pause_keeps_another_out_until_its_traffic_stops(recording, start, http):
    instance = start(recording, max_loaded_models=1, speed=SLOW)
    await load(http, instance.url)
    case = changed(CASES["generate_nonstream"], options={"num_predict": 24, "seed": 42, "temperature": 0})
    (other,) = recording.exchanges
    answers: list[str] = []

    async def keep_busy() -> None:
        while len(answers) < 10:
            assert (await send(case, instance.url)).status == 200
            answers.append("a")

    async def ask_other() -> None:
        await instance.until_at_work()
        alike(other, await send(other, instance.url))
        answers.append("b")

    await asyncio.gather(keep_busy(), keep_busy(), ask_other())
    assert recording.observed["a_answers_before_b"] == recording.observed["a_answers"]
    assert answers.index("b") == len(answers) - 1


@plays("evict_keep_alive_race")
async def test_a_request_that_names_a_keep_alive_takes_away_the_mark_to_go(recording, start, http):
    instance = start(recording, max_loaded_models=1, speed=SLOW)
    await load(http, instance.url)
    (other,) = recording.exchanges
    case = CASES["generate_stream"]
    answered: dict[str, float] = {}

    async def ask(name: str, asked: Case) -> Exchange:
        exchange = await send(asked, instance.url)
        answered[name] = time.time()
        return exchange

    async def ask_again() -> float:
        await ask("a2", changed(case, stream=False, keep_alive="700ms"))
        return time.time()

    third = changed(CASES["embed_single"], model="tiny-embed", input="x")
    at = At({3: lambda: ask("b", other), 12: ask_again, 14: lambda: ask("c", third)})
    await send(changed(case, options={"num_predict": 40, "seed": 42, "temperature": 0}), instance.url, on_chunk=at)
    answered["a1"] = time.time()
    second, idle_from, _ = await asyncio.gather(*at.begun)
    alike(other, second)
    recorded = {name.removesuffix("_done_ms"): ms for name, ms in recording.observed.items()}
    assert sorted(answered, key=answered.__getitem__) == sorted(recorded, key=recorded.__getitem__)
    assert answered["b"] - idle_from > 0.6  # its whole keep-alive, less the way of the answer


# --- the rest --------------------------------------------------------------------------------------------------------


@plays("token_repeat_cut")
async def test_a_model_that_repeats_one_token_is_cut_off_without_a_word(recording, start):
    instance = start(recording)
    exchange = await send(recording.exchanges[0], instance.url)
    alike(recording.exchanges[0], exchange)
    assert told(exchange)["done"] is False


@plays("connection_reuse")
async def test_a_connection_is_kept_from_one_stream_to_the_next(recording, start):
    instance = start(recording)
    exchanges = await send_in_turn([CASES["generate_stream"]] * 3, instance.url)
    assert [each.status_line for each in exchanges] == recording.observed["status_lines"]
    for each in exchanges:
        alike(CASES["generate_stream"], each)
