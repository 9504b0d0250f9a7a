"""The routes shown in the docs do what is said of them: read from the page, run before played models and providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.settings import load
from tests.docs.pages import DOCS, blocks
from tests.gateway.asking import Reply, ask
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in

PAGE = DOCS / "tasks" / "roles-limits-backups.md"
FRESH = {"Cache-Control": "no-store"}
CHAT, TASK = "hi, how are you?", "Summarise this text in one sentence: the meeting was moved to Monday."
CODE = "Write a Python function that merges two sorted lists."
PROOF = "Prove step by step that the square root of 2 is irrational, and explain each step of the proof."
Start = Callable[[int], Awaitable[tuple[Played, StandIn, dict[str, StandIn]]]]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Runs the page's example of that number: its pools and, in the place of its provider, a stand-in each."""
    monkeypatch.setenv("GROQ_KEY", "gsk-an-entirely-made-up-key")
    async with AsyncExitStack() as stack:

        async def begin(number: int) -> tuple[Played, StandIn, dict[str, StandIn]]:
            written: dict[str, Any] = yaml.safe_load(blocks(PAGE, "yaml")[number])
            names = [*written["models"]]
            far, *instances = await stack.enter_async_context(standing_in(1 + len(names)))
            for each in written.get("providers", {}).values():
                each["url"] = f"http://127.0.0.1:{far.port}/v1"
            (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
            pools = [pool_of(name, [each.port]) for name, each in zip(names, instances, strict=True)]
            world = await stack.enter_async_context(played(tmp_path, load(tmp_path / "cluster.yaml"), pools))
            return world, far, dict(zip(names, instances, strict=True))

        yield begin


async def asked(world: Played, text: str, model: str = "auto", **more: Any) -> Reply:
    headers = {**FRESH, **more.pop("headers", {})}
    return await ask(world.url, "/v1/chat/completions", text, model=model, headers=headers, stream=False, **more)


def models_asked(far: StandIn) -> list[str]:
    return [each["model"] for each in far.bodies]


async def test_roles_each_get_their_work_by_type_and_difficulty(start):
    world, far, _ = await start(0)
    for text, tier, model in (
        (CHAT, "tongue", "kimi-k2-instruct"),
        (TASK, "worker", "llama-4-scout-17b"),
        (CODE, "deep", "gpt-oss-120b"),
    ):
        reply = await asked(world, text)
        assert (reply.status, reply.headers["X-Tier"], far.bodies[-1]["model"]) == (200, tier, model)


async def test_a_role_that_is_used_up_is_stood_in_for_and_private_text_stays_home(start):
    world, far, pools = await start(0)
    long = f"{CODE} {'It shall be stable. ' * 1500}"  # some 7,500 tokens of the 8,000 a minute
    first = asyncio.create_task(asked(world, f"wait {long}"))
    await far.until(1)
    second = await asked(world, long)
    assert second.headers["X-Tier"] == "deep-2"
    assert second.headers["X-Route-Why"].endswith("; deep used up (tier tpm)")
    far.gate.set()
    assert (await first).headers["X-Tier"] == "deep"
    assert models_asked(far) == ["gpt-oss-120b", "llama-3.3-70b"]
    private = await asked(world, f"{CHAT} My IBAN is TR330006100519786457841326.")
    assert (private.status, private.headers["X-Tier"]) == (200, "home")
    assert len(pools["llama3.1:8b"].asked) == 1
    assert len(far.asked) == 2


async def test_never_out_of_service_while_the_clusters_own_model_is_there(start):
    world, far, _ = await start(0)
    await far.stop()
    for text in (CHAT, TASK, CODE):
        reply = await asked(world, text)
        assert (reply.status, reply.headers["X-Tier"]) == (200, "home")


async def test_small_first_and_the_frontier_only_where_the_small_answer_is_not_good_enough(start):
    world, far, pools = await start(1)
    plain = await asked(world, PROOF, "support-triage")
    assert (plain.status, plain.headers["X-Tier"], len(far.asked)) == (200, "slm-8b", 0)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    reply = await asked(world, CHAT, "support-triage", response_format=form)
    assert (reply.status, reply.headers["X-Tier"]) == (200, "frontier-api")
    assert "slm-8b doubted (it is not in the form that was asked for)" in reply.headers["X-Route-Why"]
    assert models_asked(far) == ["gpt-oss-120b"]
    assert len(pools["llama3.1:8b"].asked) == 2


async def test_calls_take_the_first_route_whose_match_holds(start):
    world, _, _ = await start(2)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    team = {"headers": {"X-Team": "support-eu"}}
    for more, route in (
        ({"model": "gpt-4o", "tools": [tool]}, "agents"),
        ({"model": "claude-x"}, "foreign-names"),
        ({"text": "Faturam neden gelmedi?", **team}, "invoices"),
        ({"text": "Faturam neden gelmedi?"}, "auto"),
    ):
        reply = await asked(world, **{"text": CHAT, **more})
        assert (reply.status, reply.headers["X-Route"]) == (200, route)
    assert "X-Route" not in (await asked(world, CHAT, "llama3.2:3b", tools=[tool])).headers
