"""One call, top to bottom: who asks, what for, from the cache or from which pool, relayed, settled.

Everything it decides with is a pure function of `core`; everything it waits for is `store` or `relay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.core.cache_policy import Standing, Wish, wish_from
from orchestrator.core.dialects.conversation import wants_format
from orchestrator.core.dialects.frames import Stats, stream_type
from orchestrator.core.dialects.parse import is_load_request, is_unload_request, turns, unknown_model
from orchestrator.core.dialects.render import render_body, render_frames, render_load
from orchestrator.core.difficulty import score
from orchestrator.core.errors import CapacityError, OrchestratorError
from orchestrator.core.model import Answer, Call, Endpoint
from orchestrator.core.routing import choose_tier, tiers_to_try
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.answer_cache import AnswerCache, Given
from orchestrator.gateway.asked import Asked, client_of
from orchestrator.gateway.asking import Asking
from orchestrator.gateway.bodies import parse
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.counted import count_call
from orchestrator.gateway.joining import Joining
from orchestrator.gateway.live import Live, Rules, Tier
from orchestrator.gateway.orders import dumped, note_kept_from_reloading
from orchestrator.gateway.patience import Patience
from orchestrator.gateway.replies import Reply, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.targets import Targets
from orchestrator.gateway.trace import Trace
from orchestrator.gateway.upstream import Connections

log = logging.getLogger(__name__)


class Pipeline:
    """The gateway's calls."""

    def __init__(
        self, live: Live, admission: Admission, connections: Connections, patience: Patience, cache: AnswerCache
    ) -> None:
        self._live, self._admission, self._cache = live, admission, cache
        self._asking = Asking(live, admission, connections, patience, cache, self._from_kept)
        self._targets = Targets(live, self._asking, self._from_kept)
        self._revalidating: dict[str, asyncio.Task[None]] = {}
        self._joining = Joining(live, admission, self._make, count_call, cache.count_join)

    async def start(self) -> None:
        """Hear of answers that are made for several workers."""
        await self._joining.start()

    async def close(self) -> None:
        """Cut what is still read for clients who left, and made anew for nobody yet."""
        await self._joining.close()
        await self._asking.close()
        for each in self._revalidating.values():
            each.cancel()
        if self._revalidating:
            await asyncio.wait(self._revalidating.values())

    async def answer(self, request: Request, connection: Connection, endpoint: Endpoint, trace: Trace) -> Reply | None:
        """Answer one inference call; None where it was streamed.

        Raises our errors, and only while no byte of an answer has gone out.
        """
        try:
            return await self._answer(request, connection, endpoint, trace)
        finally:
            self._cache.count(trace)

    async def _answer(self, request: Request, connection: Connection, endpoint: Endpoint, trace: Trace) -> Reply | None:
        rules = self._live.rules
        raw = await request.body(rules.limits.body_bytes, rules.limits.between_bytes_s)
        call = await parse(endpoint, raw)
        name = self._known(call, rules)
        if is_load_request(call):
            # Loading is the cluster's own work: the model is loaded, or being so, whatever a caller asks.
            is_unload = is_unload_request(call)
            if is_unload:
                note_kept_from_reloading(trace.caller.name, "keep_alive", "ignored")
            content_type, body = render_load(call, call.model, _now(), is_unload=is_unload)
            return whole(content_type, body, trace.fields())
        wish = wish_from(request.header(b"cache-control"))
        key = self._cache.key(call, name, trace, wish, is_alone=self._admission.is_alone)
        client = client_of(request, connection, call, trace) if call.is_stream else None
        if name not in rules.routes:
            tiers: tuple[Tier, ...] = (rules.tier_of_pool(name),)
            asked = Asked(request, connection, call, raw, name, tiers, key, False, trace, client, wish)
        else:
            asked = Asked(request, connection, call, raw, name, (), key, True, trace, client, wish)
            if wish.may_read and (curated := self._cache.curated(call, trace)) is not None:
                return await self._from_cache(asked, curated)
        if asked.may_be_kept and (near := self._cache.near(asked)) is not None:
            return await self._from_kept(asked, near)
        if key and rules.cache.joins and wish.may_read:
            return await self._joining.answer(asked)
        return await self._make(asked)

    async def _make(self, asked: Asked) -> Reply | None:
        """Answer a call by itself: from the cache or an instance."""
        if not asked.is_route:
            return await self._targets.serve(asked)
        kept = await self._admission.answer(asked.name, asked.cache_key) if asked.may_be_kept else None
        if kept is not None and (given := self._cache.given(asked, kept)) is not None:
            return await self._from_kept(asked, given)
        if not self._admission.is_alone and (alike := await self._cache.alike(asked)) is not None:
            return await self._from_cache(asked, self._cache.give_alike(asked, alike))
        return await self._targets.serve(
            asked._replace(tiers=_route(asked.call, asked.name, self._live.rules, asked.trace))
        )

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _known(self, call: Call, rules: Rules) -> str:
        if not self._live.is_known:
            raise CapacityError("no cluster has been published yet", retry_after_s=1)
        name = self._live.model(call.model)
        if name is None or (name in rules.routes and call.endpoint.is_embedding):
            raise unknown_model(call.endpoint, call.model)
        return name

    # --- from the cache -----------------------------------------------------------------------------------------------

    async def _from_kept(self, asked: Asked, given: Given) -> Reply | None:
        """A kept answer; one that is past its time is made anew behind it."""
        if given.standing is Standing.STALE:
            self._make_anew(asked)
        return await self._from_cache(asked, self._cache.give(asked, *given))

    def _make_anew(self, asked: Asked) -> None:
        """Ask an instance for nobody but the cache; once at a time, however many are given the old answer meanwhile."""
        if asked.cache_key in self._revalidating:
            return
        call, of = asked.call, asked.trace
        body = {**call.body, "stream": False}
        trace = Trace(f"{of.request_id}-anew", time.perf_counter(), of.caller, cache="anew")
        tiers = asked.tiers or _route(call, asked.name, self._live.rules, trace)
        whole_call = replace(call, is_stream=False, body=body)
        anew = asked._replace(
            call=whole_call,
            raw=dumped(body),
            tiers=tiers,
            trace=trace,
            client=None,
            wish=Wish(no_cache=True),
            making=None,
        )

        async def make() -> None:
            try:
                await self._targets.serve(anew)
            except OrchestratorError as why:
                log.warning("%s: the answer that is kept stays: %s", trace.request_id, why)
            finally:
                del self._revalidating[asked.cache_key]

        self._revalidating[asked.cache_key] = asyncio.get_running_loop().create_task(make())

    async def _from_cache(self, asked: Asked, answer: Answer) -> Reply | None:
        """A kept or curated answer, in the form that was asked for."""
        call, trace = asked.call, asked.trace
        trace.tier, trace.instance = "cache", ""
        if asked.making is not None:
            asked.making.end(answer)
        self._admission.count_cached(asked.name, trace.caller.name, answer)
        took_ns = int((time.perf_counter() - trace.began_s) * 1e9)
        stats = Stats(total_ns=took_ns, cached_tokens=answer.prompt_tokens)
        count_call(trace, "ok")
        if not call.is_stream:
            content_type, body = render_body(call, call.model, answer, _now(), stats)
            return whole(content_type, body, trace.fields())
        client = asked.client
        assert client is not None, "made for each call that is to be streamed"
        client.start(stream_type(call.endpoint))
        client.write([*render_frames(call, call.model, answer, _now(), stats)])
        await client.finish(self._live.rules.limits.between_bytes_s)
        return None


def _route(call: Call, name: str, rules: Rules, trace: Trace) -> tuple[Tier, ...]:
    """The tier that the question's difficulty asks for, and its backup."""
    began_s = time.perf_counter()
    difficulty = score(turns(call), has_tools=bool(call.body.get("tools")), has_schema=wants_format(call))
    decision = choose_tier(difficulty, rules.routes[name].rule)
    backups = {tier.name: tier.backup for tier in rules.tiers.values()}
    trace.route_reasons = decision.reasons
    trace.route_s = time.perf_counter() - began_s
    return tuple(rules.tiers[tier] for tier in tiers_to_try(decision.tier, backups))


def _now() -> datetime:
    return datetime.now(UTC)
