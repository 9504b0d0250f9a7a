"""What the clients talk to: a cluster of played cards as `up` starts it, and a gateway before a model that calls tools.

A simulated model says words without a meaning, so it never calls a tool by itself. The second world's instance is the
same simulator, told to do so (`tool_caller`); Redis and the gateway before it are as real as in the first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.core import catalogue, sizing
from orchestrator.core.cards import find_card
from orchestrator.nodes.simulator.config import config_for
from orchestrator.settings import ClusterSettings
from tests.clients.tool_caller import calling_tools
from tests.cluster.running import TIMEOUT_S, Up, running, until
from tests.gateway.played import played, pool_of
from tests.nodes.simulators import free_port

MODEL, EMBEDDER, UNKNOWN = "llama3.2:3b-instruct-q4_K_M", "nomic-embed-text", "nobody:1b"
CARD = "RTX 4090"
MARKER = f"[simulated {CARD}] "
DIMENSIONS = 768
QUESTION = "Tell me about the sea."
# So long an answer takes a simulated RTX 4090 some five seconds: a caller that leaves at its start leaves midway.
LONG = 1000
SHORT = 16
CONTEXT, SLOTS = 4096, 4
# A stream whose client left is read on for so long only that the tests need not wait for its natural end.
DRAIN_S = 0.5
SETTINGS = f"""
models: {{'{MODEL}': {{slots: {SLOTS}, context: {CONTEXT}}}, {EMBEDDER}: {{}}}}
limits: {{drain_s: {DRAIN_S}}}
"""
REQUEST_ID = re.compile(r"[0-9a-f]{32}")

# What every client is given as its tool, in the words of OpenAI's API; what the tool answers, and the model then.
CITY, WEATHER = "İzmir", "18 °C, rüzgârlı"
SAID = f"The tool says: {WEATHER}"
WEATHER_QUESTION = f"What is the weather in {CITY}?"
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": [CITY, "Ankara"]}},
            "required": ["city"],
        },
    },
}
# What every client asks for as structured output.
BOOK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
    "required": ["title", "pages"],
    "additionalProperties": False,
}


@contextmanager
def a_cluster(folder: Path) -> Iterator[Up]:
    """`ollamactl up --simulate` with a language model and an embedding model."""
    config = folder / "cluster.yaml"
    config.write_text(SETTINGS)
    with running(folder / "state", "--simulate", f"1x {CARD}", config=config) as up:
        yield up


@contextmanager
def a_tool_caller(folder: Path) -> Iterator[str]:
    """The address of a gateway whose model calls the first tool it is given, and then says what came of it."""
    port = free_port()
    shape = catalogue.find(MODEL)
    assert shape is not None
    config = config_for(
        instance="caller",
        host="127.0.0.1",
        port=port,
        card=find_card(CARD),
        card_id="card",
        model=MODEL,
        shape=shape,
        footprint=sizing.footprint(shape, CONTEXT, SLOTS, on_gpu=True),
        slots=SLOTS,
        context=CONTEXT,
        sim_dir=folder,
        seat=0,
    )
    settings = ClusterSettings.model_validate({"models": {MODEL: {"slots": SLOTS, "context": CONTEXT}}})
    pools = [pool_of(MODEL, [port], slots=SLOTS, context=CONTEXT)]
    with calling_tools(config), asyncio.Runner() as runner:
        world = played(folder, settings, pools)
        url = runner.run(world.__aenter__()).url
        try:
            yield url
        finally:
            runner.run(world.__aexit__(None, None, None))


@contextmanager
def a_caller_leaves(cluster: Up) -> Iterator[None]:
    """Within, one caller leaves in the middle of its answer: that is counted, and its slot comes back."""
    before = _callers_gone(cluster)
    yield
    until(lambda: _callers_gone(cluster) == before + 1, "a caller is counted as gone")
    until(cluster.is_idle, "no slot is taken")


async def cancel_midway(parts: AsyncIterable[Any]) -> None:
    """Read a stream in a task of its own, and cancel that once the first part has come."""
    has_begun = asyncio.Event()

    async def read() -> None:
        async for _ in parts:
            has_begun.set()

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read())
        await has_begun.wait()
        assert reading.cancel(), "the stream was over before it was cancelled"
        # Until Python 3.12 a client that reads by `asyncio.wait_for` can lose a cancellation to a part that has come.
        while not (await asyncio.wait([reading], timeout=0.2))[0]:
            reading.cancel()
    assert reading.cancelled()


def _callers_gone(cluster: Up) -> int:
    reply = httpx.get(f"{cluster.endpoint}/metrics", timeout=TIMEOUT_S)
    samples = (each for family in text_string_to_metric_families(reply.text) for each in family.samples)
    return int(sum(each.value for each in samples if each.labels.get("outcome") == "gone"))
