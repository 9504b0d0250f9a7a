"""One call, top to bottom: who asks, what for, from the cache or from which pool, relayed, settled.

Everything it decides with is a pure function of `core`; everything it waits for is `store` or `relay`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator import telemetry
from orchestrator.core.cache_policy import Standing, Wish, wish_from
from orchestrator.core.dialects.conversation import wants_format
from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.dialects.frames import Stats, body_type, stream_type
from orchestrator.core.dialects.outcome import read_answer
from orchestrator.core.dialects.parse import is_load_request, is_unload_request, turns, unknown_model
from orchestrator.core.dialects.render import render_body, render_frames, render_load
from orchestrator.core.difficulty import score
from orchestrator.core.errors import CallerError, CapacityError, InstanceError, OrchestratorError
from orchestrator.core.model import Answer, Call, Endpoint, Engine, Finish, InstanceState, Pool
from orchestrator.core.routing import choose_tier, tiers_to_try
from orchestrator.gateway.admission import Admission, Grant, Hit
from orchestrator.gateway.answer_cache import AnswerCache, Given
from orchestrator.gateway.asked import TRIES, Asked, client_of, on_queued, wanted_of
from orchestrator.gateway.bodies import parse
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.joining import Joining, MadeElsewhere
from orchestrator.gateway.live import Live, Rules, Tier
from orchestrator.gateway.making import Refusal
from orchestrator.gateway.orders import dumped, note_kept_from_reloading, order_for
from orchestrator.gateway.patience import Attempt, Patience
from orchestrator.gateway.relay import ClientGoneError, Refused, Relayed, drain, relay
from orchestrator.gateway.replies import Reply, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.trace import Trace
from orchestrator.gateway.upstream import Connections, Exchange
from orchestrator.store.admission import Joined

log = logging.getLogger(__name__)

# A pool whose instances are all being restarted is asked again when it is published anew, and this often besides:
# the end of an ejection is not published.
ASK_AGAIN_S = 1.0
# Between the end of a pool's only instance and the start of the one in its place there is none; a pool that could not
# be placed has none either, and its callers are told so after this.
WITHOUT_INSTANCES_S = 10.0


class Pipeline:
    """The gateway's calls."""

    def __init__(
        self, live: Live, admission: Admission, connections: Connections, patience: Patience, cache: AnswerCache
    ) -> None:
        self._live, self._admission, self._connections = live, admission, connections
        self._patience, self._cache = patience, cache
        self._draining: set[asyncio.Task[None]] = set()
        self._revalidating: dict[str, asyncio.Task[None]] = {}
        self._joining = Joining(live, admission, self._make, _count, cache.count_join)

    async def start(self) -> None:
        """Hear of answers that are made for several workers."""
        await self._joining.start()

    async def close(self) -> None:
        """Cut what is still read for clients who left, and made anew for nobody yet."""
        await self._joining.close()
        under_way = (*self._draining, *self._revalidating.values())
        for each in under_way:
            each.cancel()
        if under_way:
            await asyncio.wait(under_way)

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
            return await self._serve(asked)
        kept = await self._admission.answer(asked.name, asked.cache_key) if asked.may_be_kept else None
        if kept is not None and (given := self._cache.given(asked, kept)) is not None:
            return await self._from_kept(asked, given)
        if not self._admission.is_alone and (alike := await self._cache.alike(asked)) is not None:
            return await self._from_cache(asked, self._cache.give_alike(asked, alike))
        return await self._serve(asked._replace(tiers=_route(asked.call, asked.name, self._live.rules, asked.trace)))

    async def _serve(self, asked: Asked) -> Reply | None:
        """Have an instance answer. An error is raised, or told within the stream where its head is out."""
        try:
            return await self._serve_patiently(asked)
        except OrchestratorError as why:
            client, spare = asked.client, asked.trace.spare
            if spare is not None and not isinstance(why, CallerError) and (client is None or not client.is_open):
                log.warning("%s: answered from the cache, late: %s", asked.trace.request_id, why)
                return await self._from_kept(asked, Given(spare, Standing.SPARE))
            if client is None or not client.is_open:
                raise
            log.warning("%s: %s", asked.trace.request_id, why)
            if asked.making is not None:
                asked.making.fail(why, asked.trace.failures)
            client.write([error_frame(asked.call.endpoint, str(why))])
            client.abandon()
            return None

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
                await self._serve(anew)
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
        _count(trace, "ok")
        if not call.is_stream:
            content_type, body = render_body(call, call.model, answer, _now(), stats)
            return whole(content_type, body, trace.fields())
        client = asked.client
        assert client is not None, "made for each call that is to be streamed"
        client.start(stream_type(call.endpoint))
        client.write([*render_frames(call, call.model, answer, _now(), stats)])
        await client.finish(self._live.rules.limits.between_bytes_s)
        return None

    # --- from an instance ---------------------------------------------------------------------------------------------

    async def _serve_patiently(self, asked: Asked) -> Reply | None:
        """Ask until one answers; where all instances are away for a moment, wait for one as for a free slot."""
        came_s = time.perf_counter()
        while True:
            try:
                return await self._serve_by_tiers(asked)
            except (CapacityError, InstanceError) as why:
                waited_s = time.perf_counter() - came_s
                left_s = self._live.rules.limits.queue_wait_s - waited_s
                if left_s <= 0 or not self._may_pass(asked, why, waited_s):
                    raise
            began_s = time.perf_counter()
            await self._live.until_changed(min(ASK_AGAIN_S, left_s))
            asked.trace.queue_s += time.perf_counter() - began_s

    def _may_pass(self, asked: Asked, why: CapacityError | InstanceError, waited_s: float) -> bool:
        """Whether it is worth waiting: an instance is there, or on its way, that this call has not failed too often."""
        if asked.trace.spare is not None:
            return False
        if asked.trace.failures >= TRIES or (isinstance(why, CapacityError) and not why.is_passing):
            return False
        pools = [pool for tier in asked.tiers if (pool := self._live.pool(tier.pool)) is not None]
        if waited_s < WITHOUT_INSTANCES_S and any(not pool.instances for pool in pools):
            return True
        return any(each.state is not InstanceState.DOWN for pool in pools for each in pool.instances)

    async def _serve_by_tiers(self, asked: Asked) -> Reply | None:
        """Ask the tiers in turn until one answers."""
        last: CapacityError | InstanceError | None = None
        for tier in asked.tiers:
            pool = self._live.pool(tier.pool)
            if pool is None:
                continue
            asked.trace.tier = tier.name
            try:
                return await self._serve_from(asked, pool)
            except (CapacityError, InstanceError) as why:
                last = why
        raise last or CapacityError(f"no instance serves {asked.name} now", retry_after_s=5)

    async def _serve_from(self, asked: Asked, pool: Pool) -> Reply | None:
        """Ask instances of a pool until one has answered."""
        trace = asked.trace
        failed: list[str] = []
        wanted, tell = wanted_of(asked, pool), on_queued(asked)
        while True:
            admitted = await self._admission.admit(pool, wanted, tell)
            if isinstance(admitted, Hit):
                if (given := self._cache.given(asked, admitted.kept)) is not None:
                    return await self._from_kept(asked, given)
                wanted = wanted._replace(answer_key="")
                continue
            if isinstance(admitted, Joined):
                raise MadeElsewhere(admitted.holder, admitted.lease)
            if asked.making is not None:
                asked.making.begin()
            trace.queue_s += admitted.waited_s
            trace.queued_behind = admitted.queued_behind
            telemetry.TALLY.observe(telemetry.QUEUE_SECONDS, (pool.name,), admitted.waited_s)
            try:
                return await self._ask(asked, pool, admitted)
            except InstanceError as why:
                log.warning("%s: %s", trace.request_id, why)
                failed.append(admitted.instance.id)
                trace.failures += 1
                if trace.failures >= TRIES or len(failed) >= len(pool.instances):
                    raise
                telemetry.TALLY.count(telemetry.RETRIES, (pool.name,))
                wanted = wanted._replace(excluded=tuple(failed))

    async def _ask(self, asked: Asked, pool: Pool, grant: Grant) -> Reply | None:
        """One instance asked, and its slot given back whatever happens."""
        call, trace, rules = asked.call, asked.trace, self._live.rules
        trace.instance, trace.is_simulated = grant.instance.id, grant.instance.is_simulated
        client, left = asked.client, list[Exchange]()
        began_s = time.perf_counter()
        is_last = trace.failures + 1 >= min(TRIES, len(pool.instances))
        attempt = self._patience.begin(grant.pool, grant.instance, call, len(asked.raw), trace.failures, is_last)
        try:
            keep = rules.cache.max_answer_bytes if asked.cache_key else 0
            order = order_for(call, asked.raw, pool, grant.instance, rules.limits, keep, trace.caller.name)
            # llama.cpp's server sees that its client has left, and frees the slot for certain.
            on_left = left.append if rules.limits.drain_s and grant.instance.engine is Engine.OLLAMA else None

            def on_answer() -> None:
                _first_byte(trace, grant.pool, began_s, attempt)

            relayed = await relay(self._connections, order, client, on_answer, on_left, attempt, asked.making)
        except BaseException as why:
            is_started = client is not None and client.is_started
            if not is_started:
                trace.waited_s += time.perf_counter() - began_s
            if left:
                self._drain(grant, left[0], rules.limits.drain_s)
                _count(trace, "gone")
            else:
                self._give_back(grant, why, trace, is_answering=is_started)
            if client is None or not is_started or isinstance(why, asyncio.CancelledError):
                raise
            if asked.making is not None:
                asked.making.fail(why, trace.failures)
            client.abandon()
            return None
        finally:
            attempt.ended()
        self._settle(asked, grant, relayed)
        if isinstance(relayed, Refused):
            if client is not None and client.is_open:
                raise CallerError(relayed.status, relayed.body[:300].decode("utf-8", "replace").strip())
            return whole(relayed.content_type, relayed.body, trace.fields(), relayed.status)
        if client is None:
            return whole(body_type(call.endpoint), relayed.body or b"", trace.fields())
        if relayed.end.is_whole:
            await client.finish(rules.limits.between_bytes_s)
        else:
            client.abandon()
        return None

    def _drain(self, grant: Grant, exchange: Exchange, within_s: float) -> None:
        """Keep the slot of a stream whose client left until the instance is done with it, proven by its last byte."""

        async def drained() -> None:
            is_done = False
            try:
                is_done = await drain(self._connections, grant.instance, exchange, within_s)
            finally:
                if is_done:
                    self._admission.unused(grant)
                else:
                    self._admission.gone(grant, is_answering=True)

        task = asyncio.get_running_loop().create_task(drained())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _give_back(self, grant: Grant, why: BaseException, trace: Trace, *, is_answering: bool) -> None:
        """The slot of a call that was not answered, with a word on whose fault it was."""
        if isinstance(why, InstanceError):
            if why.answered:
                log.warning("%s: %s", trace.request_id, why)
            self._admission.failed(grant, is_dead=why.is_unreachable, is_hung=why.is_hung)
            _count(trace, "failed")
        elif isinstance(why, CallerError):
            self._admission.unused(grant)
            _count(trace, "refused")
        elif isinstance(why, asyncio.CancelledError | ClientGoneError):
            self._admission.gone(grant, is_answering=is_answering)
            _count(trace, "gone")
        else:
            log.exception("%s: a mistake of ours", trace.request_id, exc_info=why)
            self._admission.gone(grant, is_answering=is_answering)
            _count(trace, "error")

    def _settle(self, asked: Asked, grant: Grant, relayed: Relayed | Refused) -> None:
        trace = asked.trace
        if isinstance(relayed, Refused):
            self._admission.unused(grant)
            if asked.making is not None:
                asked.making.refuse(Refusal(*relayed))
            _count(trace, "refused")
            return
        if not relayed.end.is_whole:
            self._admission.failed(grant)
            if asked.making is not None:
                told = relayed.end.error or "ended before it was whole"
                asked.making.fail(InstanceError(grant.instance.id, told, answered=True), trace.failures + 1)
            _count(trace, "cut")
            return
        answer = _answer_of(asked, relayed)
        limit = self._live.rules.cache.max_answer_bytes
        is_kept = answer is not None and relayed.body is not None and len(relayed.body) <= limit
        kept = self._cache.kept(asked, answer) if answer is not None and is_kept else None
        tokens = (relayed.end.prompt_tokens, relayed.end.completion_tokens)
        self._admission.served(grant, trace.tier, trace.caller.name, None if asked.is_route else kept, tokens)
        if kept is not None and asked.is_route:
            self._admission.keep(asked.name, kept)
            self._cache.learn(asked)
        _count(trace, "ok", tokens)
        if asked.making is not None:
            if answer is not None:
                asked.making.end(answer)
            else:
                asked.making.fail(None)


def _answer_of(asked: Asked, relayed: Relayed) -> Answer | None:
    """What a whole answer said, for the cache and for those who wait for it; None where nobody may have it."""
    if not asked.cache_key:
        return None
    end = relayed.end
    if relayed.body is not None:
        return read_answer(asked.call.endpoint, asked.call.is_stream, relayed.body, end)
    if asked.making is None or not asked.making.is_heard or end.finish not in (Finish.STOP, Finish.LENGTH):
        return None
    thinking, text = asked.making.so_far  # too long to be kept, and heard all the same
    return Answer(text, Finish(end.finish), thinking, (), end.prompt_tokens, end.completion_tokens)


def _route(call: Call, name: str, rules: Rules, trace: Trace) -> tuple[Tier, ...]:
    """The tier that the question's difficulty asks for, and its backup."""
    began_s = time.perf_counter()
    difficulty = score(turns(call), has_tools=bool(call.body.get("tools")), has_schema=wants_format(call))
    decision = choose_tier(difficulty, rules.routes[name].rule)
    backups = {tier.name: tier.backup for tier in rules.tiers.values()}
    trace.route_reasons = decision.reasons
    trace.route_s = time.perf_counter() - began_s
    return tuple(rules.tiers[tier] for tier in tiers_to_try(decision.tier, backups))


def _first_byte(trace: Trace, pool: str, began_s: float, attempt: Attempt) -> None:
    attempt.answered()
    waited_s = time.perf_counter() - began_s
    trace.waited_s += waited_s
    telemetry.TALLY.observe(telemetry.FIRST_BYTE_SECONDS, (pool,), waited_s)


def _count(trace: Trace, outcome: str, tokens: tuple[int, int] = (0, 0)) -> None:
    tally, tier = telemetry.TALLY, trace.tier
    tally.count(telemetry.CALLS, (tier, trace.cache, outcome))
    tally.observe(telemetry.CALL_SECONDS, (tier,), time.perf_counter() - trace.began_s)
    prompt, completion = tokens
    if prompt:
        tally.count(telemetry.TOKENS, (tier, "prompt"), prompt)
    if completion:
        tally.count(telemetry.TOKENS, (tier, "completion"), completion)


def _now() -> datetime:
    return datetime.now(UTC)
