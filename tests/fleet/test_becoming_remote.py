"""A model that Ollama begins to forward, while it serves on a server of somebody else's, gets no more calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orchestrator.core.model import InstanceState
from tests.fleet.given_world import GivenWorld, given_world
from tests.store.playing import Server

REMOTE = {"remote_host": "https://ollama.com:443", "remote_model": "a"}


@dataclass(slots=True)
class Owned:
    """An Ollama whose owner changes its models while it runs: as much of its API as the controller asks for."""

    url: str = ""
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)
    shows: dict[str, dict[str, Any]] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)

    def has(
        self, name: str, digest: str, tags: dict[str, Any] | None = None, show: dict[str, Any] | None = None
    ) -> None:
        self.tags[name] = {"name": name, "model": name, "digest": digest, "size": 1, "details": {}, **(tags or {})}
        self.shows[name] = {"capabilities": ["completion"], "details": {}, "model_info": {}, **(show or {})}

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        if path == "/api/version":
            return web.json_response({"version": "0.33.0"})
        if path == "/api/tags":
            return web.json_response({"models": [*self.tags.values()]})
        if path == "/api/ps":
            here = [each for each in self.tags.values() if each["name"] in self.loads]
            return web.json_response({"models": [{**each, "size_vram": 1, "context_length": 4096} for each in here]})
        asked = await request.json()
        if path == "/api/show":
            return web.json_response(self.shows[asked["model"]])
        if path == "/api/generate":
            self.loads.append(asked["model"])
            return web.json_response({"model": asked["model"], "response": "", "done": True, "done_reason": "load"})
        return web.json_response({"error": "not found"}, status=404)


@pytest.fixture
async def world(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GivenWorld]:
    async with given_world(tmp_path, server, monkeypatch) as made:
        yield made


@pytest.fixture
async def owned() -> AsyncIterator[Owned]:
    here = Owned()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", here.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    here.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield here
    await runner.cleanup()


@pytest.mark.parametrize(
    ("tags", "show"),
    [
        (REMOTE, REMOTE),
        (REMOTE, {}),
        ({"remote_model": "a"}, {}),
        ({}, REMOTE),  # the list says nothing; that the model is another one is seen by its digest
        ({}, {"remote_model": "a"}),
    ],
)
async def test_a_model_that_becomes_a_forwarded_one_while_it_serves_is_taken_back(world, owned, tags, show):
    owned.has("a", "digest-1")
    owned.has("b", "digest-b")
    world.configure({"url": owned.url, "slots": 2})
    await world.begin()
    await world.call("a")
    assert [each.name for each in world.last.pools] == ["a", "b"]
    owned.has("a", "digest-2", tags, show)
    await world.until(lambda: [each.name for each in world.last.pools] == ["b"], "a is offered no more")
    assert any("prompts would leave the house" in each for each in world.last.notes)
    owned.has("a", "digest-1")
    await world.until(lambda: world.last.pool("a"), "it is of this machine again")


async def test_a_model_that_is_named_in_the_settings_is_down_and_says_why(world, owned):
    owned.has("a", "digest-1")
    world.configure({"url": owned.url, "model": "a", "slots": 2})
    await world.begin()
    await world.call("a")
    owned.has("a", "digest-2", REMOTE)
    (instance,) = world.pool("a").instances
    down = lambda: world.pool("a").instances[0].state is InstanceState.DOWN  # noqa: E731
    await world.until(down, "it is taken out")
    assert "https://ollama.com:443" in world.pool("a").instances[0].reason
    assert instance.id == world.pool("a").instances[0].id
