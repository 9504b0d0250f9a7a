"""OpenTelemetry traces: a call's parts in their places, whose trace it is, and nothing where nobody asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import telemetry
from orchestrator.gateway import exporting
from orchestrator.gateway.exporting import SpanExporter
from orchestrator.gateway.identity import ANYBODY
from orchestrator.gateway.live import TraceRules
from orchestrator.gateway.request import Request
from orchestrator.gateway.trace import Trace
from orchestrator.gateway.tracing import Tracing
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask, get
from tests.gateway.collector import Collector, Span, collecting
from tests.gateway.far_side import KEY, MODEL, far_side
from tests.gateway.judged import judged
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn, standing_in
from tests.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
FRESH = {"Cache-Control": "no-store"}
CANARY = "the canary sings in the mine"
CERTAIN: dict[str, Any] = {"options": {"temperature": 0}}
Start = Callable[..., Awaitable[tuple[Played, list[StandIn]]]]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as here:
        yield here


@pytest.fixture
async def start(tmp_path: Path, collector: Collector) -> AsyncIterator[Start]:
    """Starts a gateway before three stand-ins: two of the pool `little`, one of `big`."""
    async with AsyncExitStack() as stack:

        async def begin(traces: dict[str, Any] | None = None, **changes: Any) -> tuple[Played, list[StandIn]]:
            instances = await stack.enter_async_context(standing_in(3))
            pools = [pool_of("little", [each.port for each in instances[:2]]), pool_of("big", [instances[2].port])]
            written = {
                "models": {"little": {}, "big": {}},
                "tiers": {"small": {"model": "little", "backup": "full"}, "full": {"model": "big"}},
                "routes": {"auto": {}},
                "traces": {"endpoint": collector.url} if traces is None else traces,
            }
            settings = ClusterSettings.model_validate({**written, **changes})
            return await stack.enter_async_context(played(tmp_path, settings, pools)), instances

        yield begin


def tree(spans: list[Span]) -> dict[str, Any]:
    """Names, each with what is within it."""

    def within(parent: Span) -> dict[str, Any]:
        return {each.name: within(each) for each in spans if each.parent_id == parent.span_id}

    assert len({each.trace_id for each in spans}) == 1
    for each in spans[1:]:
        (parent,) = (other for other in spans if other.span_id == each.parent_id)
        assert parent.began_ns <= each.began_ns <= each.ended_ns <= parent.ended_ns
    return {spans[0].name: within(spans[0])}


def named(spans: list[Span], name: str) -> list[Span]:
    return [each for each in spans if each.name == name]


# --- what is told ----------------------------------------------------------------------------------------------------


async def test_a_call_is_a_span_and_its_parts_are_spans_within_it(start, collector):
    world, _ = await start()
    reply = await ask(world.url, "/api/chat", "hello", model="auto", headers={"X-Request-Id": "one"}, stream=True)
    ((call, *parts),) = await collector.until_traces(1)
    assert tree([call, *parts]) == {
        "POST /api/chat": {"cache": {}, "route": {}, "tier small": {"queue": {}, "chat little": {}}}
    }
    assert [each.name for each in parts] == ["cache", "route", "tier small", "queue", "chat little"]
    assert call.parent_id == ""
    assert reply.headers["X-Trace-Id"] == call.trace_id
    told = call.attributes
    assert (told["http.request.method"], told["http.route"], told["http.response.status_code"]) == (
        *("POST", "/api/chat", 200),
    )
    assert (told["ollamactl.request.id"], told["ollamactl.tier"], told["gen_ai.request.model"]) == (
        *("one", "small", "auto"),
    )
    (relay,) = named(parts, "chat little")
    assert relay.kind == 3
    assert relay.attributes["gen_ai.operation.name"] == "chat"
    assert relay.attributes["gen_ai.provider.name"] == "ollama"
    assert relay.attributes["gen_ai.usage.output_tokens"] == told["gen_ai.usage.output_tokens"] == 3
    assert relay.attributes["ollamactl.instance"] == reply.headers["X-Instance"]
    assert [name for name, _ in relay.moments] == ["first byte"]
    assert collector.resources[0]["service.name"] == "ollamactl"


async def test_a_kept_answer_is_a_span_that_says_so_and_nobody_is_asked(start, collector):
    world, _ = await start()
    for model in ("auto", "little"):
        for _ in range(2):
            await ask(world.url, "/api/chat", "hello", model=model, stream=False, **CERTAIN)
    calls = await collector.until_traces(4)
    for spans in (calls[1], calls[3]):
        (looked,) = spans[1:]
        assert looked.name == "cache"
        assert looked.attributes["ollamactl.cache.hit"] is True
        assert spans[0].attributes["ollamactl.cache"] == "hit"
    assert named(calls[0], "cache")[0].attributes["ollamactl.cache.hit"] is False


async def test_each_attempt_is_a_span_and_each_tier_that_was_handed_the_call(start, collector):
    world, (first, second, _) = await start()
    first.does = second.does = "die"
    reply = await ask(world.url, "/api/chat", "hello", model="auto", headers=FRESH, stream=False)
    assert reply.headers["X-Tier"] == "full"
    ((call, *parts),) = await collector.until_traces(1)
    assert tree([call, *parts])["POST /api/chat"].keys() == {"route", "tier small", "tier full"}
    failed, (good,) = named(parts, "chat little"), named(parts, "chat big")
    assert [each.attributes.get("http.request.resend_count", 0) for each in (*failed, good)] == [0, 1, 2]
    assert len({each.attributes["ollamactl.instance"] for each in failed}) == 2
    assert all(each.is_failed and each.attributes["error.type"] == "failed" for each in failed)
    assert not good.is_failed
    assert not call.is_failed
    assert ("handed over", {"ollamactl.tier": "small", "ollamactl.why": "failed"}) in call.moments
    (tier,) = named(parts, "tier small")
    assert tier.attributes["ollamactl.outcome"] == "failed"


async def test_an_answer_that_is_doubted_is_a_tier_of_its_own_beside_the_one_that_answers(tmp_path, collector):
    async with judged(2) as (small, big):
        written = {
            "models": {"small": {}, "big": {}},
            "tiers": {"low": {"model": "small"}, "high": {"model": "big"}},
            "routes": {
                "r": {"primary": "low", "escalate_to": "high", "escalate_if": [{"confidence_below": 0.6}]}
                | {"cache": "off", "hold_tokens": 3}
            },
            "traces": {"endpoint": collector.url},
        }
        big.plans = {"sure": big.plans["sure"]}
        pools = [pool_of("small", [small.port]), pool_of("big", [big.port])]
        async with played(tmp_path, ClusterSettings.model_validate(written), pools) as world:
            for stream in (True, False):
                reply = await ask(world.url, "/api/chat", "unsure", model="r", stream=stream)
                assert reply.headers["X-Tier"] == "high"
            calls = await collector.until_traces(2)
    for call, *parts in calls:
        within = tree([call, *parts])["POST /api/chat"]
        assert list(within) == ["route", "tier low", "tier high"]
        assert list(within["tier low"]) == ["queue", "chat small"]
        (low,), (high,) = named(parts, "tier low"), named(parts, "tier high")
        assert (low.attributes["ollamactl.outcome"], high.attributes["ollamactl.outcome"]) == ("escalated", "ok")
        assert low.ended_ns <= high.began_ns
        assert not named(parts, "chat small")[0].is_failed
        assert call.attributes["ollamactl.escalated"] == "confidence_below"
        assert [name for name, _ in call.moments] == ["handed over"]


async def test_a_call_that_nobody_answers_is_a_failed_span_and_one_that_is_wrong_is_none(start, collector):
    world, instances = await start()
    for each in instances:
        each.does = "die"
    assert (await ask(world.url, "/api/chat", "hello", model="little", headers=FRESH, stream=False)).status >= 500
    assert (await ask(world.url, "/api/chat", "hello", model="nobody", stream=False)).status == 404
    (failed,), (wrong,) = [spans[:1] for spans in await collector.until_traces(2)]
    assert failed.is_failed
    assert failed.attributes["error.type"] == "InstanceError"
    assert not wrong.is_failed
    assert wrong.attributes["http.response.status_code"] == 404


async def test_who_waits_for_anothers_answer_is_linked_to_it(start, collector):
    world, (first, second, _) = await start()
    leading = asyncio.create_task(ask(world.url, "/api/chat", "wait a bit", model="little", stream=False, **CERTAIN))
    await until(lambda: first.active + second.active)
    following = asyncio.create_task(ask(world.url, "/api/chat", "wait a bit", model="little", stream=False, **CERTAIN))
    await until(
        lambda: get(world.url, "/metrics"), holds=lambda seen: b"olm_cache_followers 1" in seen.body.replace(b".0", b"")
    )
    first.gate.set()
    second.gate.set()
    led, followed = (await leading).headers["X-Trace-Id"], (await following).headers["X-Trace-Id"]
    by_id = {spans[0].trace_id: spans for spans in await collector.until_traces(2)}
    (join,) = named(by_id[followed], "join")
    assert join.links == ((led, by_id[led][0].span_id),)
    assert "chat little" not in {each.name for each in by_id[followed]}


async def test_no_text_of_a_call_is_in_any_span(start, collector):
    world, instances = await start(limits={"queue_wait_s": 0.2})
    for text in (CANARY, f"callers-500 {CANARY}", f"own-500 {CANARY}", f"cut {CANARY}", f"beyond-context {CANARY}"):
        for stream in (True, False):
            for model in ("auto", "little"):
                await ask(world.url, "/api/chat", text, model=model, stream=stream, **CERTAIN)
    await ask(world.url, "/v1/chat/completions", CANARY, model="auto", stream=True, user=CANARY)
    await collector.until_traces(21)
    assert any(CANARY in text for each in instances for text in each.asked)
    assert not any(part in body for body in collector.bodies for part in (CANARY.encode(), b"canary", b"one two"))


# --- whose trace it is -----------------------------------------------------------------------------------------------


async def test_a_callers_trace_is_gone_on_with_and_handed_on_to_the_instance(start, collector):
    world, instances = await start()
    state = {"tracestate": "vendor=opaque:1 , other=2"}
    await ask(world.url, "/api/chat", "hello", model="big", headers={**FRESH, **SAMPLED, **state}, stream=True)
    (spans,) = await collector.until_traces(1)
    assert (spans[0].trace_id, spans[0].parent_id, spans[0].state) == (TRACE, PARENT, "vendor=opaque:1,other=2")
    (relay,) = named(spans, "chat big")
    lines = instances[2].heads[0].splitlines()
    assert f"traceparent: 00-{TRACE}-{relay.span_id}-01" in lines
    assert "tracestate: vendor=opaque:1,other=2" in lines


async def test_a_callers_word_decides_whether_its_call_is_traced(start, collector):
    world, instances = await start({"endpoint": collector.url, "share": 0})
    for headers in ({}, UNSAMPLED, SAMPLED):
        reply = await ask(world.url, "/api/chat", "hello", model="big", headers={**FRESH, **headers}, stream=False)
    assert reply.headers["X-Trace-Id"] == TRACE
    (spans,) = await collector.until_traces(1)
    assert spans[0].parent_id == PARENT
    heads = instances[2].heads
    assert all(head.count("traceparent: 00-") == 1 for head in heads)
    assert ["-00\r\n" in head for head in heads] == [True, True, False]
    assert f"traceparent: 00-{TRACE}-" in heads[1]


async def test_without_an_endpoint_nothing_is_traced_told_or_handed_on(start, collector):
    world, instances = await start({})
    reply = await ask(world.url, "/api/chat", "hello", model="big", headers={**FRESH, **SAMPLED}, stream=False)
    assert "X-Trace-Id" not in reply.headers
    assert "traceparent" not in instances[2].heads[0].lower()
    assert b"olm_trace_spans_total{" not in (await get(world.url, "/metrics")).body
    assert collector.bodies == []


async def test_a_provider_is_told_of_the_trace_and_not_of_what_others_keep_in_it(tmp_path, collector):
    async with far_side() as far, standing_in(1) as (instance,):
        far.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        url = f"https://localhost:{far.port}/v1"
        written = {
            "models": {"m": {}},
            "providers": {"far": {"url": url, "key": KEY, "ca": str(tmp_path / "ca.pem")}},
            "tiers": {"big": {"provider": "far", "model": MODEL}},
            "routes": {"auto": {"primary": "big"}},
            "traces": {"endpoint": collector.url},
        }
        settings = ClusterSettings.model_validate(written)
        async with played(tmp_path, settings, [pool_of("m", [instance.port])]) as world:
            headers = {**SAMPLED, "tracestate": "vendor=opaque"}
            assert (await ask(world.url, "/api/chat", "hello", model="auto", headers=headers, stream=True)).is_whole
            (spans,) = await collector.until_traces(1)
    (relay,) = named(spans, f"chat {MODEL}")
    assert far.heard[-1].headers["traceparent"] == f"00-{TRACE}-{relay.span_id}-01"
    assert "tracestate" not in far.heard[-1].headers
    assert relay.attributes["gen_ai.provider.name"] == "far"
    assert (relay.attributes["server.address"], relay.attributes["server.port"]) == ("localhost", far.port)


# --- where it goes ---------------------------------------------------------------------------------------------------


async def until_counted(world: Played, line: bytes) -> None:
    await until(lambda: get(world.url, "/metrics"), holds=lambda seen: line in seen.body)


async def test_a_collector_is_opened_by_the_headers_of_the_settings(start, collector, tmp_path):
    world, _ = await start({"endpoint": f"{collector.url}/", "headers": {"Authorization": "Basic c2VjcmV0"}})
    await ask(world.url, "/api/chat", "hello", model="big", stream=False)
    await collector.until_traces(1)
    assert collector.headers[0]["Authorization"] == "Basic c2VjcmV0"
    assert "c2VjcmV0" not in (world.state / "settings.yaml").read_text() + world.logs()


async def test_a_collector_that_is_away_costs_no_call_anything_and_has_the_spans_when_it_is_back(start, collector):
    world, _ = await start()
    await collector.stop()
    for _ in range(3):
        assert (await ask(world.url, "/api/chat", "hello", model="big", headers=FRESH, stream=True)).is_whole
    await until(lambda: "takes no spans" in world.logs())
    await ask(world.url, "/api/chat", "hello", model="big", headers=FRESH, stream=True)
    await collector.start()
    assert len(await collector.until_traces(4)) == 4
    await until_counted(world, b'olm_trace_spans_total{outcome="sent"}')
    assert world.logs().count("takes no spans") == 1
    assert "spans are taken again" in world.logs()


async def test_what_a_collector_refuses_is_dropped_and_counted(start, collector):
    world, _ = await start()
    collector.status = 400
    await ask(world.url, "/api/chat", "hello", model="big", headers=FRESH, stream=False)
    await until_counted(world, b'olm_trace_spans_total{outcome="dropped"} 3.0')
    collector.status, collector.answers = 200, {"partialSuccess": {"rejectedSpans": "2"}}
    await ask(world.url, "/api/chat", "hello", model="big", headers=FRESH, stream=False)
    await until_counted(world, b'olm_trace_spans_total{outcome="dropped"} 5.0')
    await until_counted(world, b'olm_trace_spans_total{outcome="sent"} 1.0')


async def test_more_than_may_wait_is_dropped_and_who_hands_it_over_waits_for_nobody(collector, monkeypatch):
    monkeypatch.setattr(exporting, "WAITING_AT_MOST", 10)
    monkeypatch.setattr(exporting, "CALLS_AT_ONCE", 4)
    tally = telemetry.Tally()
    monkeypatch.setattr(telemetry, "TALLY", tally)
    exporter = SpanExporter(lambda: TraceRules(f"{collector.url}/v1/traces", 1.0), "test")
    tracing, request = Tracing(exporter.take), Request(SimpleNamespace(send_continue=None))  # type: ignore[arg-type]
    request.method, request.path = "POST", "/api/chat"
    collector.gate.clear()
    exporter.start()
    for n in range(25):
        trace = Trace(f"call-{n}", 0.0, ANYBODY)
        tracing.begin(request, trace, TraceRules("", 1.0))
        tracing.end(request, trace, 200)
    assert tally._counts[telemetry.SPANS, ("dropped",)] == 15
    collector.gate.set()
    calls = await collector.until_traces(10)
    assert [spans[0].attributes["ollamactl.request.id"] for spans in calls] == [f"call-{n}" for n in range(10)]
    await exporter.close()
    assert tally._counts[telemetry.SPANS, ("sent",)] == 10


async def test_what_waits_is_sent_when_the_gateway_ends(start, collector):
    world, _ = await start()
    await ask(world.url, "/api/chat", "hello", model="big", headers=FRESH, stream=False)
    world.gateways[0].terminate()
    assert await asyncio.to_thread(world.gateways[0].wait, 20) == 0
    assert len(await collector.until_traces(1)) == 1
