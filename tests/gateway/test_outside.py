"""A tier whose target is a provider outside: every dialect, its errors, its limits, and a key that nobody gets to see.

The provider is played (`far_side`), strictly and over real TLS; the gateway is a real process.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from orchestrator.core.dialects.outcome import read_answer
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Endpoint, Finish
from orchestrator.core.target import Provider
from orchestrator.gateway.live import Tier
from orchestrator.gateway.outside_answer import Attempt, FarAnswer
from orchestrator.settings import ClusterSettings
from orchestrator.store import usage
from tests.gateway.asking import Reply, ask, body_for, get
from tests.gateway.far_side import KEY, MODEL, WORDS, FarSide, far_side
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.gateway.test_request_log import until_written
from tests.nodes.simulators import free_port
from tests.waiting import until

TEXT = "".join(WORDS)
PATHS = (
    *("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
)  # fmt: skip
FRESH = {"Cache-Control": "no-store"}
PICTURE = "iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
Start = Callable[..., Awaitable[Played]]


@pytest.fixture
async def far() -> AsyncIterator[FarSide]:
    async with far_side() as here:
        yield here


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway whose route `auto` goes to the provider alone, and `safe` to it with a pool as backup."""
    async with AsyncExitStack() as stack:

        async def begin(far: FarSide, *, key: str = KEY, ca: bool = True, **changes: Any) -> Played:
            authority = tmp_path / "ca.pem"
            far.ca.cert_pem.write_to_path(str(authority))
            provider: dict[str, Any] = {"url": f"https://localhost:{far.port}/v1", "key": key}
            provider |= {"ca": str(authority)} if ca else {}
            tiers = {
                "big": {"provider": "far", "model": MODEL, "price": {"prompt": 1.0, "completion": 10.0}},
                "big-or-home": {"provider": "far", "model": MODEL, "backup": "home"},
                "home": {"model": "m"},
            }
            written = {
                "models": {"m": {}},
                "providers": {"far": provider | changes.pop("provider", {})},
                "tiers": tiers,
                "routes": {"auto": {"primary": "big"}, "safe": {"primary": "big-or-home"}},
            }
            settings = ClusterSettings.model_validate({**written, **changes})
            (instance,) = await stack.enter_async_context(standing_in(1))
            return await stack.enter_async_context(played(tmp_path, settings, [pool_of("m", [instance.port])]))

        yield begin


async def metrics_with(world: Played, line: str) -> str:
    """The metrics, once a worker has handed on what they are waited for."""
    reply = await until(lambda: get(world.url, "/metrics"), holds=lambda reply: line in reply.body.decode())
    return reply.body.decode()


def answered(path: str, reply: Reply, *, stream: bool) -> Any:
    assert reply.status == 200, reply.body
    answer = read_answer(Endpoint(path), stream, reply.body)
    assert answer is not None, reply.body
    return answer


async def test_every_dialect_is_answered_streamed_and_whole_and_what_it_cost_is_counted(far, start):
    world = await start(far)
    for path in PATHS:
        for stream in (True, False):
            reply = await ask(world.url, path, f"hi {path}", model="auto", stream=stream, headers=FRESH)
            answer = answered(path, reply, stream=stream)
            assert (answer.text, answer.finish) == (TEXT, Finish.STOP), (path, stream)
            assert (reply.headers["X-Tier"], reply.headers["X-Instance"]) == ("big", f"far/{MODEL}")
            if not (path.endswith("completions") and stream):  # OpenAI's streams tell counts to who asks
                assert (answer.prompt_tokens, answer.completion_tokens) == (20, 9), (path, stream)
    assert far.connections == 1, "one connection serves one call after another"
    calls, spent = len(far.heard), len(far.heard) * (20 * 1 + 9 * 10) / 1e6
    metrics = await metrics_with(world, f'olm_tokens_total{{kind="completion",tier="big"}} {9.0 * calls}')
    assert f'olm_tokens_total{{kind="prompt",tier="big"}} {20.0 * calls}' in metrics
    assert f'olm_tokens_total{{kind="reasoning",tier="big"}} {4.0 * calls}' in metrics
    (dollars,) = (line for line in metrics.splitlines() if line.startswith('olm_usd_total{tier="big"}'))
    assert float(dollars.split()[1]) == pytest.approx(spent)
    day = datetime.now(UTC).date().isoformat()
    whole = {"tier:big:requests": calls, f"instance:far/{MODEL}:completion_tokens": 9 * calls}
    await until(  # a call's counts are written one by one
        lambda: usage.read(world.connection, day),
        holds=lambda seen: (
            whole.items() <= seen.get("auto", {}).items()
            and seen["auto"].get("tier:big:usd_nano") == pytest.approx(spent * 1e9)
        ),
    )


async def test_tools_images_schemas_and_thoughts_go_there_and_come_back(far, start):
    world = await start(far, privacy={"attachments": "public"})
    for path in ("/api/chat", "/v1/chat/completions"):
        for stream in (True, False):
            reply = await ask(world.url, path, "tool please", model="auto", stream=stream, tools=[TOOL], headers=FRESH)
            (call,) = answered(path, reply, stream=stream).tool_calls
            assert (call.name, dict(call.arguments)) == ("weather", {"city": "Ankara"})
            assert far.bodies[-1]["tools"] == [TOOL]
    anthropics = [{"name": "weather", "description": "", "input_schema": {"type": "object"}}]
    reply = await ask(world.url, "/v1/messages", "tool", model="auto", stream=True, tools=anthropics, headers=FRESH)
    assert [each.name for each in answered("/v1/messages", reply, stream=True).tool_calls] == ["weather"]
    for path in ("/api/chat", "/v1/messages"):
        reply = await ask(world.url, path, "think of it", model="auto", stream=True, headers=FRESH)
        assert answered(path, reply, stream=True).thinking == "hm"
    said = [{"role": "user", "content": "what is it?", "images": [PICTURE]}]
    more = {"messages": said, "format": SCHEMA, "stream": False}
    assert (pictured := await ask(world.url, "/api/chat", "", model="auto", headers=FRESH, **more)).status == 200, (
        pictured
    )
    sent = far.bodies[-1]
    assert sent["messages"][0]["content"][1]["image_url"]["url"].endswith(PICTURE)
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_ollamas_options_never_make_a_strict_provider_refuse(far, start):
    world = await start(far)
    options = {"num_ctx": 8192, "top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "num_predict": 7, "seed": 3}
    more = {"options": options, "keep_alive": "5m", "think": "high"}
    reply = await ask(world.url, "/api/chat", "hi", model="auto", stream=False, headers=FRESH, **more)
    assert reply.status == 200, reply.body
    sent = far.bodies[-1]
    assert (sent["max_tokens"], sent["seed"], sent["reasoning_effort"]) == (7, 3, "high")
    heard = far.heard[-1].headers
    assert heard["host"] == f"localhost:{far.port}"
    assert heard["accept-encoding"] == "identity"
    assert heard["user-agent"].startswith("ollamactl/")


async def test_an_answer_of_a_provider_is_kept_for_its_route(far, start):
    world = await start(far)
    first = await ask(world.url, "/api/chat", "keep this", model="auto", stream=True)
    again = await until(
        lambda: ask(world.url, "/v1/messages", "keep this", model="auto"), holds=lambda again: again.cache == "hit"
    )
    assert first.cache == "miss"
    assert answered("/v1/messages", again, stream=False).text == TEXT


async def test_the_callers_mistake_is_told_in_the_callers_dialect_and_without_the_key(far, start):
    world = await start(far)
    for path in PATHS:
        reply = await ask(world.url, path, "wrong", model="auto", stream=True, headers=FRESH)
        assert reply.status == 400, path
        error = reply.json()["error"]
        assert "temperature is too high" in (error if path.startswith("/api") else error["message"])
        assert KEY.encode() not in reply.body


async def test_too_many_calls_are_503_with_the_providers_own_time_and_the_backup_answers_meanwhile(far, start):
    world = await start(far)
    reply = await ask(world.url, "/api/chat", "busy", model="auto", headers=FRESH)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "7")
    safe = await ask(world.url, "/api/chat", "busy", model="safe", headers=FRESH)
    assert (safe.status, safe.headers["X-Tier"]) == (200, "home")


async def test_a_key_that_is_refused_breaks_the_target_loudly_and_is_shown_to_nobody(far, start):
    world = await start(far, key="sk-wrong-0123456789")
    reply = await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)
    assert reply.status in (502, 503)
    safe = await ask(world.url, "/api/chat", "hi", model="safe", headers=FRESH)
    assert (safe.status, safe.headers["X-Tier"]) == (200, "home")
    logs = world.logs()
    assert f"far/{MODEL} refuses our key" in logs
    status, metrics = await get(world.url, "/status.json"), await get(world.url, "/metrics")
    assert 'olm_provider_open{model="far-8b",provider="far"} 0.0' in metrics.body.decode()
    for told in (logs.encode(), reply.body, str(dict(reply.headers)).encode(), status.body, metrics.body):
        assert b"sk-wrong" not in told


async def test_a_certificate_that_is_not_trusted_is_never_spoken_to(far, start):
    world = await start(far, ca=False)
    reply = await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)
    assert reply.status in (502, 503)
    assert "the certificate of localhost" in world.logs()
    assert far.heard == [], "not one byte of a request went out"


async def test_a_certificate_of_another_name_is_not_trusted(start):
    async with far_side(name="elsewhere.example") as far:
        world = await start(far)
        assert (await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)).status in (502, 503)
        assert far.heard == []


async def test_a_provider_that_fails_is_stood_in_for_and_a_model_it_has_not_is_said(far, start):
    world = await start(far)
    assert (await ask(world.url, "/api/chat", "down", model="auto", headers=FRESH)).status in (502, 503)
    assert (await ask(world.url, "/api/chat", "down", model="safe", headers=FRESH)).headers["X-Tier"] == "home"
    far.models = ("another",)
    await ask(world.url, "/api/chat", "hi", model="safe", headers=FRESH)
    assert f"far/{MODEL} does not know the model" in world.logs()


async def test_a_stream_that_is_cut_ends_with_an_error_in_each_dialect_and_is_not_kept(far, start):
    world = await start(far)
    far.gate.set()
    for path in PATHS:
        reply = await ask(world.url, path, f"cut {path}", model="auto", stream=True)
        assert reply.status == 200
        assert b"error" in reply.body, path
        assert read_answer(Endpoint(path), True, reply.body) is None
    assert (await ask(world.url, "/api/chat", "cut /api/chat", model="auto", stream=True)).cache == "miss"


async def test_a_caller_that_leaves_ends_the_providers_work_too(far, start):
    world = await start(far)
    async with aiohttp.ClientSession() as http:
        asked = body_for("/api/chat", "endless", model="auto")
        async with http.post(world.url + "/api/chat", json=asked) as reply:
            await reply.content.readany()
    await far.until_left(1)
    assert far.left == 1


async def test_a_connection_that_was_closed_while_it_was_idle_costs_no_call(far, start):
    world = await start(far)
    await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)
    far.hang_up()
    reply = await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)
    assert reply.status == 200
    assert far.connections == 2


async def test_a_second_cluster_of_ours_is_a_provider_like_any_other(tmp_path, start, far):
    there = tmp_path / "there"
    there.mkdir()
    settings = ClusterSettings.model_validate({
        "models": {"m": {}},
        "keys": [{"name": "us", "secret": KEY, "admin": True}],
        "tiers": {"small": {"model": "m"}, "full": {"model": "m"}},
        "routes": {"auto": {}},
    })  # fmt: skip
    async with standing_in(1) as (instance,), played(there, settings, [pool_of("m", [instance.port])]) as other:
        provider = {"url": f"{other.url}/v1"}
        tiers = {"big": {"provider": "far", "model": "m"}}
        world = await start(far, ca=False, provider=provider, tiers=tiers, routes={"auto": {"primary": "big"}})
        for path in PATHS:
            for stream in (True, False):
                reply = await ask(world.url, path, "hi", model="auto", stream=stream, headers=FRESH)
                answer = answered(path, reply, stream=stream)
                assert answer.text == "one two three", (path, stream)
                assert reply.headers["X-Simulated"] == "true", "what is played there is played here"
                if not (path.endswith("completions") and stream):
                    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3), (path, stream)


async def test_a_call_that_went_from_cluster_to_cluster_goes_no_further(far, start):
    """Each may be the other's backup."""
    world = await start(far)
    await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH | {"X-Ollamactl-Hops": "1"})
    assert far.heard[-1].headers["x-ollamactl-hops"] == "2"
    reply = await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH | {"X-Ollamactl-Hops": "2"})
    assert reply.status == 503
    assert len(far.heard) == 1
    assert (await ask(world.url, "/api/chat", "hi", model="safe", headers=FRESH)).status == 200


async def test_a_changed_key_is_used_from_the_next_call_on(far, start):
    """Connections of before are not used for it: whoever opened them is not who asks now."""
    world = await start(far)
    await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)
    secret = world.state / "secrets" / "+provider.far"
    secret.write_text("sk-another-0123456789")
    world.gateways[0].send_signal(1)  # SIGHUP
    await until(lambda: world.logs().count("settings taken over") >= 1)
    assert (await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)).status in (502, 503)
    assert far.heard[-1].headers["authorization"] == "Bearer sk-another-0123456789"
    assert far.connections == 2


async def test_an_answer_that_is_not_good_enough_goes_up_and_both_cost(far, start):
    tiers = {
        "big": {"provider": "far", "model": MODEL, "price": {"prompt": 1.0, "completion": 10.0}},
        "home": {"model": "m"},
    }
    conditions: list[dict[str, Any]] = [{"refusal": True}, {"confidence_below": 0.6}]
    routes = {"auto": {"primary": "big", "escalate_to": "home", "escalate_if": conditions}}
    world = await start(far, tiers=tiers, routes=routes)
    asked = 0
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        for stream in (True, False):
            for text in ("sorry", "unsure"):
                reply = await ask(world.url, path, text, model="auto", stream=stream, headers=FRESH)
                assert reply.headers["X-Tier"] == "home", (path, stream, text)
                assert answered(path, reply, stream=stream).text == "one two three"
                assert far.bodies[-1]["logprobs"] is True
                asked += 1
            sure = await ask(world.url, path, "think", model="auto", stream=stream, headers=FRESH)
            assert sure.headers["X-Tier"] == "big"
            assert b"logprobs" not in sure.body.replace(b'"logprobs":null', b"")
    metrics = await metrics_with(world, f'olm_calls_total{{cache="bypass",outcome="escalated",tier="big"}} {asked}.0')
    assert 'olm_usd_total{tier="big"}' in metrics


ESCALATES: dict[str, Any] = {
    "tiers": {"big": {"provider": "far", "model": MODEL}, "home": {"model": "m"}},
    "routes": {"auto": {"primary": "big", "escalate_to": "home", "escalate_if": [{"refusal": True}]}},
}


async def test_a_doubted_answer_is_waited_for_once_and_its_counts_are_not_the_next_ones(far, start):
    world = await start(far, **ESCALATES)
    for n, stream in enumerate((True, False), 1):
        reply = await ask(world.url, "/api/chat", "sorry", model="auto", stream=stream, headers=FRESH)
        assert reply.headers["X-Tier"] == "home"
        overhead = re.search(r"overhead;dur=([\d.]+)", reply.headers["Server-Timing"])
        assert overhead is not None
        assert float(overhead[1]) > 0, "more was waited for than the call took"
        record = (await until_written(world, n))[-1]
        assert (record["tier"], record["reasoning_tokens"], record["cached_tokens"]) == ("home", None, 0)
        assert record["wait_ms"] < record["total_ms"]


async def test_a_providers_doubted_answer_that_is_given_all_the_same_is_told_as_its_own(far, start):
    world = await start(far, **ESCALATES)
    await world.publish([pool_of("m", [free_port()])])
    await world.until_known()
    reply = await ask(world.url, "/api/chat", "sorry", model="auto", stream=False, headers=FRESH)
    assert (reply.status, reply.headers["X-Tier"]) == (200, "big"), reply.body
    assert "X-Simulated" not in reply.headers
    (record,) = await until_written(world, 1)
    assert (record["simulated"], record["reasoning_tokens"], record["cached_tokens"]) == (False, 4, 16)


async def test_a_doubted_answer_of_the_house_is_better_than_a_providers_refusal(far, start):
    route = {"primary": "home", "escalate_to": "big", "escalate_if": [{"length_cut": True}]}
    world = await start(far, tiers=ESCALATES["tiers"], routes={"auto": route})
    reply = await ask(world.url, "/api/chat", "too-long", model="auto", stream=False, headers=FRESH)
    assert (reply.status, reply.headers["X-Tier"], reply.text) == (200, "home", "one two")
    assert reply.headers["X-Route-Why"].endswith("big refused")
    assert len(far.bodies) == 1


async def test_a_stream_without_its_last_word_is_whole_where_it_is_judged_too(far, start):
    route = {**ESCALATES["routes"]["auto"], "buffered": True}
    world = await start(far, **{**ESCALATES, "routes": {"auto": route}})
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        reply = await ask(world.url, path, "undone", model="auto", stream=True, headers=FRESH)
        assert reply.headers["X-Tier"] == "big", path
        assert answered(path, reply, stream=True).text == TEXT
        assert reply.body.count(b"[DONE]") == (path == "/v1/chat/completions")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_key_that_is_repeated_in_an_answer_of_status_200_is_seen_by_nobody(path, is_stream):
    raw = orjson.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": is_stream})
    provider = Provider("far", "localhost", 443, True, "/v1", key=KEY)
    answer = FarAnswer(parse_call(Endpoint(path), raw), Tier("big", "", None, provider, MODEL), "far/x", Attempt())
    said = orjson.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "code": 401}})
    told = answer.feed(b"data: " + said + b"\n\n" if is_stream else said) + answer.finish()
    assert KEY.encode() not in told
    assert b"Incorrect API key" in told or path == "/api/chat"


async def test_what_a_provider_says_is_left_keeps_calls_from_it(far, start):
    """Its own word, of its headers, before anybody is refused."""
    world = await start(far)
    far.says = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    assert (await ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH)).status == 200
    reply = await until(
        lambda: ask(world.url, "/api/chat", "hi", model="auto", headers=FRESH), holds=lambda reply: reply.status != 200
    )
    assert reply.status == 503
    assert 1 <= int(reply.headers["Retry-After"]) <= 31
