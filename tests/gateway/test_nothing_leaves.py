"""A `local` call never leaves the cluster: a provider's socket that writes down every byte hears nothing of it.

Each test has the control beside it: the same call without private matter does go there by the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of, serving
from tests.gateway.stand_in import StandIn, standing_in
from tests.open_lines import OpenLines, read_request
from tests.waiting import until

IBAN = "TR33 0006 1005 1978 6457 8413 26"
MARK = "kanarya7f3a9"
PLAIN = f"hello {MARK}"
SECRET = f"{PLAIN}, {IBAN}"
PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses")
KEYS = [
    {"name": "open", "secret": "a" * 16, "admin": True},
    {"name": "strict", "secret": "s" * 16, "privacy": "local"},
    {"name": "inner", "secret": "i" * 16, "privacy": "internal"},
]


@dataclass(slots=True)
class Outsider:
    """A provider as a bare socket: it answers OpenAI's chat in fixed words, and keeps all that it hears."""

    port: int = 0
    heard: bytearray = field(default_factory=bytearray)
    calls: int = 0
    _open: OpenLines = field(default_factory=OpenLines)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.serve(writer, lambda: self._answer(reader, writer))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, body = await read_request(reader)
        self.heard += head.encode("latin-1") + body
        self.calls += 1
        writer.write(_answer(is_stream=bool(orjson.loads(body).get("stream"))))
        await writer.drain()
        return True

    def close(self) -> None:
        self._open.cut()


def _answer(*, is_stream: bool) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    common = {"id": "c", "created": 1, "model": "far-8b"}
    if not is_stream:
        message = {"role": "assistant", "content": "from outside"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = orjson.dumps({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    common["object"] = "chat.completion.chunk"
    frames = [
        {**common, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "from outside"}}]},
        {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**common, "choices": [], "usage": usage},
    ]
    body = b"".join(b"data: %b\n\n" % orjson.dumps(each) for each in frames) + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


@dataclass(slots=True)
class World:
    url: str
    gateway: Played
    little: StandIn
    big: StandIn
    outside: Outsider

    async def ask(self, text: str, *, path: str = "/api/chat", who: str = "a", **more: Any) -> Reply:
        headers = {"Authorization": f"Bearer {who * 16}", **more.pop("headers", {})}
        return await ask(self.url, path, text, headers=headers, **{"model": "auto", "stream": False, **more})

    def heard(self, what: str = MARK) -> int:
        return bytes(self.outside.heard).count(what.encode())

    async def empty(self, *pools: str) -> None:
        """As if these were down."""
        served = self.gateway.pools
        await self.gateway.publish(
            [serving(each, without=each.instances[0].id) if each.name in pools else each for each in served]
        )
        await until(self._states, holds=lambda seen: seen.count("down") == len(pools))

    async def _states(self) -> list[str]:
        told = (await get(self.url, "/status.json", headers={"Authorization": f"Bearer {'a' * 16}"})).json()
        return [each["state"] for pool in told["pools"] for each in pool["instances"]]


Start = Callable[..., Awaitable[World]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway with the pools `little` and `big`, and a provider behind tier `far`, backup of both."""
    async with AsyncExitStack() as stack:

        async def begin(**changes: Any) -> World:
            outside = Outsider()
            server = await asyncio.start_server(outside.serve, "127.0.0.1", 0, limit=2**24)
            outside.port = server.sockets[0].getsockname()[1]
            stack.callback(outside.close)
            stack.callback(server.close)
            little, big = await stack.enter_async_context(standing_in(2))
            provider = {"url": f"http://127.0.0.1:{outside.port}/v1", "key": "k" * 20, **changes.pop("provider", {})}
            tiers: dict[str, Any] = {
                "small": {"model": "little", "backup": "far"},
                "full": {"model": "big", "backup": "far"},
                "far": {"model": "far-8b", "provider": "out"},
            }
            for name, more in changes.pop("tiers", {}).items():
                tiers[name] = {**tiers.get(name, {}), **more}
            told = {
                "models": {"little": {}, "big": {}},
                "providers": {"out": provider},
                "tiers": tiers,
                "routes": {"auto": {}},
                "keys": KEYS,
                "cache": {"enabled": False},
                "limits": {"queue_wait_s": 0.3},
                **changes,
            }
            pools = [pool_of("little", [little.port], slots=8), pool_of("big", [big.port], slots=8)]
            gateway = await stack.enter_async_context(played(tmp_path, ClusterSettings.model_validate(told), pools))
            return World(gateway.url, gateway, little, big, outside)

        yield begin


# --- as a backup -----------------------------------------------------------------------------------------------------


async def test_no_pool_can_answer_and_a_local_call_is_refused_rather_than_sent_to_the_backup_outside(start):
    world = await start()
    await world.empty("little", "big")
    ways = [(path, is_stream) for path in PATHS for is_stream in (True, False)]
    for path, is_stream in ways:
        reply = await world.ask(SECRET, path=path, stream=is_stream)
        assert (reply.status, reply.headers["X-Privacy"]) == (503, "local"), path
        assert int(reply.headers["Retry-After"]) >= 1
    assert (world.heard(), world.outside.calls) == (0, 0)
    for path, is_stream in ways:
        assert "from outside" in (await world.ask(PLAIN, path=path, stream=is_stream)).body.decode()
    assert world.heard() == world.outside.calls == len(ways)


async def test_an_instance_that_fails_in_whatever_way_sends_a_local_call_nowhere(start):
    world = await start(tiers={"small": {"breaker": {"at_least": 1000}}})
    for world.little.does in ("own-500", "busy-503", "die", "cut", "end"):
        replies = await asyncio.gather(*(world.ask(SECRET, stream=is_stream) for is_stream in (True, False)))
        assert not any("from outside" in each.body.decode() for each in replies)
    assert world.little.asked, "it was asked"
    assert world.heard() == 0
    await world.ask(PLAIN)
    assert world.heard() == 1


async def test_a_tier_that_is_used_up_sends_a_local_call_nowhere(start):
    world = await start(tiers={"small": {"limits": {"rpm": 1}}, "full": {"limits": {"rpm": 1}}})
    for _ in range(3):
        await world.ask(SECRET)
    assert world.heard() == 0
    for _ in range(3):
        await world.ask(PLAIN)
    assert world.heard() >= 1


async def test_a_tier_left_alone_for_failing_sends_a_local_call_nowhere(start):
    world = await start(tiers={"small": {"breaker": {"at_least": 1, "open_s": 60}}})
    world.little.does = "own-500"
    await world.ask(PLAIN)
    assert world.heard() == 1
    reply = await world.ask(SECRET)
    assert reply.status == 503
    assert world.heard() == world.outside.calls == 1


async def test_a_full_queue_sends_a_local_call_nowhere(start):
    world = await start(limits={"queue_wait_s": 0.3, "queue_length": 0})
    world.little.does = "wait"
    waiting = [asyncio.create_task(world.ask(f"{SECRET} {n}")) for n in range(8)]
    await world.little.until(8)
    assert (await world.ask(SECRET)).status == 503
    assert world.heard() == 0
    assert "from outside" in (await world.ask(PLAIN)).body.decode()
    world.little.gate.set()
    await asyncio.gather(*waiting)
    assert world.heard() == 1


# --- where only somebody outside would answer -------------------------------------------------------------------------


async def test_where_only_a_provider_would_answer_a_local_call_is_refused_with_its_class_and_why(start):
    world = await start(routes={"auto": {}, "away": {"primary": "far"}})
    for path in PATHS:
        for is_stream in (True, False):
            reply = await world.ask(SECRET, model="away", path=path, stream=is_stream)
            assert (reply.status, reply.headers["X-Privacy"]) == (403, "local")  # `ollamactl eval run` goes by both
            assert "this call is local (iban), and away has no target" in reply.body.decode()
            assert "kanarya" not in reply.body.decode(), "of the text itself nothing is repeated"
    assert (world.heard(), world.outside.calls) == (0, 0)
    assert (await world.ask(PLAIN, model="away")).status == 200


async def test_a_class_that_is_none_is_refused_before_anybody_is_asked_also_where_only_pools_would_be(start):
    world = await start(routes={"auto": {}, "home": {"primary": "full"}})
    for model in ("home", "auto", "big"):
        reply = await world.ask(PLAIN, model=model, headers={"X-Privacy": "locla"})
        assert (reply.status, "public, internal or local is wanted" in reply.body.decode()) == (400, True), model
    assert not world.little.asked
    assert not world.big.asked


async def test_a_tier_outside_that_is_asked_for_by_name_gets_no_local_call(start):
    world = await start()
    headers = {"X-Tier": "far"}
    reply = await world.ask(SECRET, headers=headers)
    assert (reply.status, "this call is local (iban)" in reply.body.decode()) == (403, True)
    assert world.heard() == 0
    assert "from outside" in (await world.ask(PLAIN, headers=headers)).body.decode()


# --- as an escalation -------------------------------------------------------------------------------------------------


async def test_a_doubted_answer_to_a_local_call_is_escalated_to_nobody_outside(start):
    route = {"primary": "small", "escalate_to": "far", "escalate_if": [{"length_cut": True}, {"timeout": 0.3}]}
    limits = {"queue_wait_s": 0.3, "first_byte_s": 1}  # what hangs is left for the backup at home
    world = await start(routes={"auto": {}, "up": route}, tiers={"small": {"backup": "full"}}, limits=limits)
    for is_stream, world.little.does in ((False, "too-long"), (True, "hang")):
        await world.ask(SECRET, model="up", stream=is_stream)
        assert world.little.asked
        assert world.heard() == 0
    assert "from outside" in (await world.ask(PLAIN, model="up", stream=True)).body.decode()
    world.little.does = "too-long"
    assert "from outside" in (await world.ask(PLAIN, model="up")).body.decode()
    assert world.heard() == 2


# --- as a classifier call, from the cache, for others -----------------------------------------------------------------


async def test_the_model_that_scores_questions_is_one_of_the_house(start):
    world = await start(routes={"auto": {"scorer": "llm", "scorer_tier": "full"}})
    await world.ask(SECRET)
    assert any(MARK in orjson.dumps(each).decode() for each in world.big.bodies), "it was asked"
    assert (world.heard(), world.outside.calls) == (0, 0)


async def test_an_answer_that_is_made_anew_behind_a_stale_one_is_made_at_home(start):
    cache = {"ttl_s": 1, "ttl_jitter": 0, "stale_while_revalidate_s": 3600, "near_bytes": 0}
    world = await start(cache=cache)
    for text in (SECRET, PLAIN):
        assert (await world.ask(text)).cache == "miss"
    await world.empty("little", "big")
    for text in (SECRET, PLAIN):
        await until(partial(world.ask, text), "stale", holds=lambda reply: "stale" in reply.headers["X-Cache"])
    await until(lambda: world.outside.calls)
    assert world.heard(IBAN) == 0
    assert world.heard() >= 1


async def test_calls_that_wait_for_one_answer_are_of_one_class_and_one_that_names_its_own_waits_for_no_other(start):
    """Who follows takes over where the leader fails: then its own class counts."""
    world = await start(cache={"models": "all"}, limits={"queue_wait_s": 0.3})
    world.little.does = "wait"
    leader = asyncio.create_task(world.ask(PLAIN))
    await world.little.until(1)
    named = asyncio.create_task(world.ask(PLAIN, headers={"X-Privacy": "local"}))
    await world.little.until(2)
    secret = [asyncio.create_task(world.ask(SECRET)) for _ in range(3)]
    await world.little.until(3)
    await world.empty("little", "big")
    await world.little.stop()
    await leader
    replies = await asyncio.gather(named, *secret)
    assert world.little.asked == [PLAIN, PLAIN, SECRET]
    assert world.heard(IBAN) == 0
    assert world.heard() <= 1, "the leader alone may have gone"
    assert {each.status for each in replies} <= {502, 503}


# --- classes by route, key, header and default ------------------------------------------------------------------------


async def test_route_key_header_and_default_make_a_call_local_and_none_of_them_makes_it_less(start):
    world = await start(routes={"auto": {}, "home": {"privacy": "local"}})
    await world.empty("little", "big")
    local: list[dict[str, Any]] = [
        {"model": "home"},
        {"who": "s"},
        {"headers": {"X-Privacy": "local"}},
        {"headers": {"X-Privacy": " LOCAL "}},
        {"model": "home", "headers": {"X-Privacy": "public"}},
        {"who": "s", "headers": {"X-Privacy": "public"}},
        {"text": SECRET, "headers": {"X-Privacy": "public"}},
        {"images": ["aGVsbG8="]},
        {"who": "i"},  # internal, and the provider takes public calls alone
        {"text": f"{MARK} ali@example.com"},
        {"text": MARK + " ve" * 200_000},
    ]
    for each in local:
        reply = await world.ask(**{"text": PLAIN, **each})
        assert reply.status in (403, 503), each
    assert (await world.ask(PLAIN, headers={"X-Privacy": "secret"})).status == 400
    assert (world.heard(), world.outside.calls) == (0, 0)
    assert (await world.ask(PLAIN, headers={"X-Privacy": "public"})).status == 200


async def test_an_internal_call_goes_to_a_provider_that_is_trusted_with_it_and_a_local_one_does_not(start):
    world = await start(provider={"accepts": "internal"}, privacy={"attachments": "internal"})
    await world.empty("little", "big")
    internal: list[tuple[str, dict[str, Any]]] = [
        (f"{MARK} ali@example.com", {}),
        (PLAIN, {"who": "i"}),
        (PLAIN, {"headers": {"X-Privacy": "internal"}}),
    ]
    for text, more in internal:
        assert (await world.ask(text, **more)).status == 200
    assert world.heard() == 3
    assert (await world.ask(SECRET)).status == 503
    assert world.heard() == 3


async def test_a_call_that_can_only_be_answered_at_home_is_not_looked_into(start):
    world = await start()
    reply = await world.ask(SECRET, model="little")
    assert (reply.status, reply.headers.get("X-Privacy")) == (200, None)
