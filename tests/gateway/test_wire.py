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
from tests.wire_replay import Case, Exchange, compare, load_cases, replay_config, send

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASES = load_cases()

NOT_SERVED = {
    "/v1/messages": "Anthropic's API is not part of this version",
    "/v1/responses": "OpenAI's Responses API is not part of this version",
    "/api/create": "models are the operator's affair: cluster.yaml names them",
    "/api/copy": "models are the operator's affair: cluster.yaml names them",
    "/api/delete": "models are the operator's affair: cluster.yaml names them",
    "/api/blobs/": "models are the operator's affair: cluster.yaml names them",
    "/api/pull": "models are the operator's affair: cluster.yaml names them",
    "/metrics": "the cluster has metrics, where Ollama has none",
    "/api/status": "it tells of Ollama's cloud, which instances run without",
}
NOT_PLAYED = {
    "generate_nonstream_load_failure": "the recorded server could not load any model",
    "generate_stream_load_failure_kv": "the recorded server had a KV cache type that does not exist",
    "v1_chat_stream_load_failure": "the recorded server could not load any model",
    "tags_empty": "needs a cluster without models; tested by itself",
}
# What the gateway tells beside Ollama's headers: of every answer, and of where an answer of a model came from.
OURS = frozenset({"X-Request-Id", "X-Cache", "Server-Timing", "X-Tier", "X-Instance", "X-Simulated"})
LOADED = {
    "ps_empty": (),
    "ps_loaded": ("smollm2:135m",),
    "ps_keep_alive_forever": ("smollm2:135m",),
    "ps_two_loaded": ("smollm2:135m", "tiny-embed:latest"),
}


def reason_not_played(case: Case) -> str | None:
    by_path = next((why for path, why in NOT_SERVED.items() if case.path.startswith(path)), None)
    return by_path or NOT_PLAYED.get(case.name)


PLAYED = [name for name, case in CASES.items() if reason_not_played(case) is None]


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


@pytest.fixture(scope="module")
def all_pools(world: Played) -> tuple[Pool, ...]:
    return world.pools


async def described(name: str, port: int) -> Pool:
    """The pool of a model, described by its instance as the controller has it described."""
    pool = pool_of(name, [port])
    instance = pool.instances[0]
    engine = EngineApi()
    try:
        is_embedding = "embed" in name
        await engine.load(instance, is_embedding=is_embedding)
        return replace(pool, is_embedding=is_embedding, details=await engine.describe(instance))
    finally:
        await engine.close()


def differences(case: Case, exchange: Exchange) -> list[str]:
    """How an answer differs; the order of its headers has no meaning."""
    found = compare(case, exchange, ignore={"headers"})
    ours = sorted(each for each in exchange.headers if each[0] not in OURS)
    recorded = sorted(case.answer_headers)
    if [name for name, _ in ours] != [name for name, _ in recorded]:
        found.append(f"headers {ours} instead of {recorded}")
    for (name, mine), (_, theirs) in zip(ours, recorded, strict=False):
        if name == "Access-Control-Allow-Headers":
            # Pages may send a key and a request id besides.
            same = set(theirs.split(",")) <= set(mine.split(","))
        else:
            same = mine == theirs or name in ("Date", "Content-Length")
        if not same:
            found.append(f"header {name}: {mine} instead of {theirs}")
    return found


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


async def test_a_cluster_without_models_lists_none(world):
    if not CASES:
        pytest.skip("the recordings in ../shared are not present")
    await world.publish(())
    await world.until_known()
    assert differences(CASES["tags_empty"], await send(CASES["tags_empty"], world.url)) == []


async def test_every_recording_is_played_or_has_a_reason_not_to_be():
    assert set(NOT_PLAYED) <= set(CASES) or not CASES
    for name, case in CASES.items():
        assert (name in PLAYED) == (reason_not_played(case) is None)
