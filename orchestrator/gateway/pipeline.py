"""One call, top to bottom: who asks, what for, from the cache or from which pool, relayed, settled.

Everything it decides with is a pure function of `core`; everything it waits for is `store` or `relay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from orchestrator.core.cache_policy import Standing, Wish, wish_from
from orchestrator.core.dialects.bounds import with_answer_limit
from orchestrator.core.dialects.frames import Stats
from orchestrator.core.dialects.parse import is_load_request, is_unload_request, unknown_model
from orchestrator.core.dialects.render import render_load
from orchestrator.core.errors import CallerError, CapacityError, OrchestratorError
from orchestrator.core.limits import Exhausted
from orchestrator.core.model import Answer, Call, Endpoint
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.answer_cache import AnswerCache, Given
from orchestrator.gateway.asked import REPLAY, Asked, client_of, names_tier
from orchestrator.gateway.asking import Asking
from orchestrator.gateway.bodies import parse
from orchestrator.gateway.breakers import Breakers
from orchestrator.gateway.budgets import Budgets
from orchestrator.gateway.choosing import Choosing, route_by_rules, tier_by_name
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.counted import count_call
from orchestrator.gateway.discretion import PRIVACY, class_of
from orchestrator.gateway.feedback import make_ratable
from orchestrator.gateway.identity import not_for_this_key
from orchestrator.gateway.joining import Joining
from orchestrator.gateway.live import Live, Rules, Tier
from orchestrator.gateway.loading import Loading
from orchestrator.gateway.orders import note_kept_from_reloading
from orchestrator.gateway.outside import Outside
from orchestrator.gateway.patience import Patience
from orchestrator.gateway.replies import Reply, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.scoring import Scoring
from orchestrator.gateway.story import CACHE, JOIN, ROUTE
from orchestrator.gateway.targets import Sides, Targets
from orchestrator.gateway.telling import tell
from orchestrator.gateway.trace import Trace
from orchestrator.gateway.upstream import Connections

log = logging.getLogger(__name__)

# Of the models that there are, where another one was asked for: a header has no room for hundreds.
MODELS_TOLD: Final = 30


class Pipeline:
    """The gateway's calls."""

    def __init__(
        self,
        live: Live,
        admission: Admission,
        connections: Connections,
        patience: Patience,
        cache: AnswerCache,
        budgets: Budgets,
    ) -> None:
        self._live, self._admission, self._cache, self._budgets = live, admission, cache, budgets
        self._asking = Asking(live, admission, connections, patience, cache, self._from_kept)
        self._outside = Outside(live, admission, cache, budgets.correct)
        self.breakers = Breakers(live)
        self._targets = Targets(live, Sides(self._asking, self._outside), budgets, self.breakers, self._from_kept)
        self._loads = Targets(live, Sides(Loading(admission), self._outside), budgets, self.breakers, self._from_kept)
        self._choosing = Choosing(budgets.may_go_up, Scoring(live, admission, connections, budgets))
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
        self._outside.close()

    async def answer(self, request: Request, connection: Connection, endpoint: Endpoint, trace: Trace) -> Reply | None:
        """Answer one inference call; None where it was streamed.

        Raises our errors, and only while no byte of an answer has gone out.
        """
        try:
            limits = self._live.rules.limits
            raw = await request.body(limits.body_bytes, limits.between_bytes_s, limits.body_s)
            size = len(raw)
            call = await parse(endpoint, raw, limits.images)
            del raw  # it is needed no more, and the call may wait for long
            asked = self._asked(request, connection, call, size, trace)
            if not isinstance(asked, Asked):
                return asked if isinstance(asked, Reply) else await asked
            return await (self._answered(asked) if trace.caller.budget is None else self._answered_within_budget(asked))
        finally:
            self._cache.count(trace)

    def _asked(
        self, request: Request, connection: Connection, call: Call, size: int, trace: Trace
    ) -> Asked | Reply | Awaitable[Reply | None]:
        """What is asked for, of the pools and routes that there are; or the answer where nobody need be asked, or
        where a load is all that was asked for."""
        rules = self._live.rules
        limits = rules.limits
        if limits.answer_tokens is not None:
            call = with_answer_limit(call, limits.answer_tokens)
        trace.model, trace.is_stream = call.model, call.is_stream
        name = self._known(call, request, trace, rules)
        if is_load_request(call):
            # Loading is the cluster's own work, and so is what goes for another model: it is waited for, and not done.
            is_unload, pool = is_unload_request(call), self._live.pool(name)
            if is_unload:
                note_kept_from_reloading(trace.caller.name, "keep_alive", "ignored")
            elif pool is not None and not pool.slots_serving:
                tiers: tuple[Tier, ...] = (rules.tier_of_pool(name),)
                return self._loads.serve(Asked(request, connection, call, size, name, tiers, "", False, trace, None))
            content_type, body = render_load(call, call.model, _now(), is_unload=is_unload)
            return whole(content_type, body, trace.fields())
        # What one tier says, by name, is no answer of its route's.
        wish = wish_from("no-store" if names_tier(request) else request.header(b"cache-control"))
        trace.has_class = PRIVACY in request.headers
        if trace.has_class:
            class_of(request.header(PRIVACY))  # one that is none is told at once, whoever would answer
        key = self._cache.key(call, name, trace, wish, is_alone=self._admission.is_alone)
        client = client_of(request, connection, call, trace) if call.is_stream else None
        is_route = name in rules.routes
        if is_route:
            trace.route = name
            make_ratable(trace, self._cache, name)
        tiers = () if is_route else (rules.tier_of_pool(name),)
        return Asked(request, connection, call, size, name, tiers, key, is_route, trace, client, wish)

    async def _answered_within_budget(self, asked: Asked) -> Reply | None:
        """One more request of the caller's key. Raises CapacityError 429 where that is one too many."""
        reserved = await self._budgets.reserve_key(asked)
        if isinstance(reserved, Exhausted):
            raise reserved.as_error()
        try:
            return await self._answered(asked)
        finally:
            self._budgets.settle(reserved, asked.trace.tokens, asked.trace.usd)

    def _answered(self, asked: Asked) -> Awaitable[Reply | None]:
        """By what is kept, by what is being made, or by a target."""
        if asked.trace.story is not None and self._is_looked_up(asked):
            asked.trace.story.begin(CACHE)
        if asked.is_route and asked.wish.may_read:
            curated = self._cache.curated(asked.call, asked.trace)
            if curated is not None:
                return self._from_cache(asked, curated)
        if asked.may_be_kept and (near := self._cache.near(asked)) is not None:
            return self._from_kept(asked, near)
        if asked.cache_key and self._live.rules.cache.joins and asked.wish.may_read and not asked.trace.has_class:
            return self._joining.answer(asked)
        return self._make(asked)

    def _is_looked_up(self, asked: Asked) -> bool:
        """Whether there may be a kept or curated answer."""
        return asked.may_be_kept or (asked.is_route and asked.wish.may_read and len(self._live.rules.faq) > 0)

    def _make(self, asked: Asked) -> Awaitable[Reply | None]:
        """Answer a call by itself: from the cache or an instance."""
        if asked.trace.story is not None:
            asked.trace.story.end(JOIN)
        if not asked.is_route:
            if asked.trace.story is not None:
                asked.trace.story.end(CACHE, cache_hit=False)
            return self._targets.serve(asked)
        return self._make_for_route(asked)

    async def _make_for_route(self, asked: Asked) -> Reply | None:
        """From its cache, or by one of its tiers."""
        kept = await self._admission.answer(asked.name, asked.cache_key) if asked.may_be_kept else None
        if kept is not None and (given := self._cache.given(asked, kept)) is not None:
            return await self._from_kept(asked, given)
        if not self._admission.is_alone and (alike := await self._cache.alike(asked)) is not None:
            return await self._from_cache(asked, self._cache.give_alike(asked, alike))
        reply = await self._targets.serve(await self._routed(asked))
        self._count_routed(asked)
        return reply

    def _count_routed(self, asked: Asked) -> None:
        """What a tier has answered whole, of what users ask."""
        trace = asked.trace
        is_users = not (REPLAY in asked.request.headers or names_tier(asked.request))
        if trace.outcome == "ok" and trace.tier != "cache" and is_users:
            self._admission.count_routed(asked.name, trace.tier, trace.escalated)

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _known(self, call: Call, request: Request, trace: Trace, rules: Rules) -> str:
        """The pool or route that answers. Raises CallerError 404."""
        if not self._live.is_known:
            raise CapacityError("no cluster has been published yet", retry_after_s=1)
        if trace.caller.models is not None and not trace.caller.may_use(call.model):
            raise not_for_this_key(self._unknown(call, trace))
        name = self._live.model(call.model)
        if rules.matches:
            matched = route_by_rules(call, request, trace, name, rules)
            if matched is not None and (name is None or trace.caller.may_use(matched)):
                name = matched
        if name is None or (name in rules.routes and call.endpoint.is_embedding):
            raise self._unknown(call, trace)
        return name

    def _unknown(self, call: Call, trace: Trace) -> CallerError:
        """What is told of a model that is not there, with those that are, as far as the caller may ask for them."""
        routes = () if call.endpoint.is_embedding else self._live.rules.routes
        unknown = unknown_model(call.endpoint, call.model)
        there = (each for each in (*routes, *self._live.pools) if trace.caller.may_use(each))
        unknown.there = tuple(islice(there, MODELS_TOLD))
        return unknown

    async def _routed(self, asked: Asked) -> Asked:
        """A call of a route, with the tiers that may answer it."""
        if asked.trace.story is not None:
            asked.trace.story.end(CACHE, cache_hit=False)
            asked.trace.story.begin(ROUTE, route=asked.name)
        rules = self._live.rules
        route = rules.routes.get(asked.name)
        if route is None:  # the settings have changed since it was asked for
            raise self._unknown(asked.call, asked.trace)
        named = tier_by_name(asked, rules)
        tiers = (named,) if named is not None else rules.chain((await self._choosing.decide(asked, route)).tier)
        if asked.trace.story is not None:
            asked.trace.story.end(ROUTE, tier=tiers[0].name)
        return asked._replace(tiers=tiers)

    # --- from the cache -----------------------------------------------------------------------------------------------

    def _from_kept(self, asked: Asked, given: Given) -> Awaitable[Reply | None]:
        """A kept answer; one that is past its time is made anew behind it."""
        if given.standing is Standing.STALE:
            self._make_anew(asked)
        return self._from_cache(asked, self._cache.give(asked, *given))

    def _make_anew(self, asked: Asked) -> None:
        """Ask an instance for nobody but the cache; once at a time, however many are given the old answer meanwhile."""
        if asked.cache_key in self._revalidating:
            return
        call, of = asked.call, asked.trace
        body = {**call.body, "stream": False}
        trace = Trace(f"{of.request_id}-anew", time.perf_counter(), of.caller, cache="anew", has_class=of.has_class)
        whole_call = replace(call, is_stream=False, body=body)
        anew = asked._replace(
            call=whole_call,
            trace=trace,
            client=None,
            wish=Wish(no_cache=True),
            making=None,
        )

        async def make() -> None:
            try:
                await self._targets.serve(await self._routed(anew) if anew.is_route else anew)
            except OrchestratorError as why:
                log.warning("%s: the answer that is kept stays: %s", trace.request_id, why)
            finally:
                del self._revalidating[asked.cache_key]

        self._revalidating[asked.cache_key] = asyncio.get_running_loop().create_task(make())

    async def _from_cache(self, asked: Asked, answer: Answer) -> Reply | None:
        """A kept or curated answer, in the form that was asked for."""
        trace = asked.trace
        trace.tier, trace.instance = "cache", ""
        if trace.story is not None:
            trace.story.given(trace.cache_layer if trace.cache == "hit" else trace.cache, trace.cache_why)
        if asked.making is not None:
            asked.making.end(answer)
        self._admission.count_cached(asked.name, trace.caller.name, answer)
        took_ns = int((time.perf_counter() - trace.began_s) * 1e9)
        stats = Stats(total_ns=took_ns, cached_tokens=answer.prompt_tokens)
        count_call(trace, "ok")
        trace.tokens, trace.cached_tokens = (answer.prompt_tokens, answer.completion_tokens), answer.prompt_tokens
        return await tell(asked, answer, stats, self._live.rules.limits.between_bytes_s)


def _now() -> datetime:
    return datetime.now(UTC)
