"""The recorded requests of a real Ollama's clients, sent to the gateway, are answered as the real one answered them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from orchestrator.core.model import Instance, Pool
from orchestrator.nodes.engine_api import EngineApi
from orchestrator.settings import ClusterSettings
from tests.gateway.played import Played, played, pool_of
from tests.nodes.simulators import free_port, running
from tests.wire_gateway import differences
from tests.wire_instance import RecordedInstance, recorded_instance
from tests.wire_replay import OLDER, Case, load_cases, replay_config, send

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASES = load_cases()
OLDER_CASES = load_cases(OLDER)

NOT_SERVED = {
    "/v1/messages/count_tokens": "the cluster counts tokens, where Ollama does not",
    "/api/create": "a controller does it; asked in test_managing",
    "/api/copy": "a controller does it; asked in test_managing",
    "/api/delete": "a controller does it; asked in test_managing",
    "/api/blobs/": "a controller does it; asked in test_managing",
    "/api/pull": "a controller does it; asked in test_managing",
    "/metrics": "the cluster has metrics, where Ollama has none",
    "/api/status": "it tells of Ollama's cloud, which instances run without",
}
# An image for a model that cannot see: 400 from both, Ollama's in the words of its runner. `test_overload` has ours.
OUR_WORDS = frozenset({"generate_image"})
PLAYED_APART = frozenset({"tags_empty"}) | OUR_WORDS
# Played with instances that can load nothing, in `test_scenarios`.
LOADS_NOTHING = frozenset(name for name in CASES if "load_failure" in name)
# What the gateway answers by itself it answers as 0.33, whatever its instances are. Where 0.24 spoke otherwise:
OLDER_DIFFERS = {
    "generate_image": "0.24 answered as if there were no image; the gateway refuses it",
    "show_missing": "0.24 named a model that is missing without its tag",
    "v1_model_missing": "0.24 named a model that is missing without its tag",
    "ps_two_loaded": "the gateway lists pools in the settings' order, 0.24 by the time they stay",
}
LOADED = {
    "ps_empty": (),
    "ps_loaded": ("smollm2:135m",),
    "ps_keep_alive_forever": ("smollm2:135m",),
    "ps_two_loaded": ("smollm2:135m", "tiny-embed:latest"),
}


def reason_not_played(case: Case) -> str | None:
    return next((why for path, why in NOT_SERVED.items() if case.path.startswith(path)), None)


PLAYED = [
    name for name, case in CASES.items() if reason_not_played(case) is None and name not in PLAYED_APART | LOADS_NOTHING
]
OLDER_PLAYED = [
    name for name, case in OLDER_CASES.items() if reason_not_played(case) is None and name not in OLDER_DIFFERS
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Played]:
    if not CASES:
        pytest.skip("the recordings in ../shared are not present")
    folder = tmp_path_factory.mktemp("wire")
    config = replay_config(free_port(), CASES, max_loaded_models=32)
    with running(config, folder):
        names = [model.name for model in config.models if model.is_pulled]
        served = [await described(name, config.port) for name in names]
        # A kept answer is told anew, in larger pieces and without the durations of a model's work.
        settings = ClusterSettings.model_validate({"models": {name: {} for name in names}, "cache": {"enabled": False}})
        async with played(folder, settings, served) as world:
            yield world


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def older(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Played, RecordedInstance]]:
    """A gateway before an Ollama 0.24, which answers by its recordings."""
    if not OLDER_CASES:
        pytest.skip("the recordings in ../shared are not present")
    async with recorded_instance(OLDER_CASES) as instance:
        names = [each["name"] for each in json.loads(b"".join(OLDER_CASES["tags"].chunks))["models"]]
        served = [await described(name, instance.port, version=OLDER.name.removeprefix("v")) for name in names]
        settings = ClusterSettings.model_validate({"models": {name: {} for name in names}, "cache": {"enabled": False}})
        async with played(tmp_path_factory.mktemp("older"), settings, served) as world:
            yield world, instance


@pytest.fixture(scope="module")
def older_pools(older: tuple[Played, RecordedInstance]) -> tuple[Pool, ...]:
    return older[0].pools


@pytest.fixture(scope="module")
def all_pools(world: Played) -> tuple[Pool, ...]:
    return world.pools


async def described(name: str, port: int, **more: str) -> Pool:
    """The pool of a model, described by its instance as the controller has it described."""
    pool = pool_of(name, [port], **more)
    instance = pool.instances[0]
    engine = EngineApi()
    try:
        is_embedding = "embed" in name
        await engine.load(instance, is_embedding=is_embedding)
        return replace(pool, is_embedding=is_embedding, details=await engine.describe(instance))
    finally:
        await engine.close()


async def prepare(case: Case, world: Played, all_pools: tuple[Pool, ...]) -> None:
    """Publish the cluster that answers as the recorded server did: its models in memory, its context."""
    pools = all_pools
    if case.path == "/api/ps":
        pools = tuple(pool for pool in all_pools if pool.name in LOADED[case.name])
    elif (context := asked_context(case)) is not None:
        pools = tuple(replace(pool, instances=with_context(pool, context)) for pool in all_pools)
    if pools != world.pools:
        await world.publish(pools)
        await world.until_known()


def asked_context(case: Case) -> int | None:
    """A call's num_ctx: in a cluster the context is the pool's, so the pool must have it to answer alike."""
    try:
        asked = json.loads(case.body)["options"]["num_ctx"]
    except (ValueError, KeyError, TypeError):
        return None
    return asked if isinstance(asked, int) else None


def with_context(pool: Pool, context: int) -> tuple[Instance, ...]:
    return tuple(replace(each, context=context) for each in pool.instances)


@pytest.mark.parametrize("name", PLAYED)
async def test_a_recorded_request_is_answered_as_recorded(name, world, all_pools):
    await prepare(CASES[name], world, all_pools)
    assert differences(CASES[name], await send(CASES[name], world.url)) == []


@pytest.mark.parametrize("name", OLDER_PLAYED)
async def test_what_an_older_instance_answers_is_handed_on_as_it_is(name, older, older_pools):
    world, instance = older
    case = OLDER_CASES[name]
    await prepare(case, world, older_pools)
    instance.answer, asked_before = case, instance.asked
    exchange = await send(case, world.url)
    assert differences(case, exchange) == []
    assert exchange.body == b"".join(case.chunks) or instance.asked == asked_before


@pytest.mark.parametrize("name", [name for name in OLDER_DIFFERS if name in OLDER_CASES])
async def test_what_the_gateway_says_otherwise_than_the_older_version_still_differs(name, older, older_pools):
    world, instance = older
    await prepare(OLDER_CASES[name], world, older_pools)
    asked_before = instance.asked
    assert differences(OLDER_CASES[name], await send(OLDER_CASES[name], world.url)) != []
    assert instance.asked == asked_before


async def test_a_cluster_without_models_lists_none(world):
    if not CASES:
        pytest.skip("the recordings in ../shared are not present")
    await world.publish(())
    await world.until_known()
    assert differences(CASES["tags_empty"], await send(CASES["tags_empty"], world.url)) == []


async def test_every_recording_is_played_or_has_a_reason_not_to_be():
    excepted = {name for name, case in CASES.items() if reason_not_played(case) is not None}
    assert not CASES or set(PLAYED) | PLAYED_APART | LOADS_NOTHING | excepted == set(CASES)
    older_excepted = {name for name, case in OLDER_CASES.items() if reason_not_played(case) is not None}
    assert not CASES or set(OLDER_PLAYED) | set(OLDER_DIFFERS) | older_excepted == set(OLDER_CASES)
    for path in NOT_SERVED:
        assert not CASES or any(case.path.startswith(path) for case in CASES.values())
