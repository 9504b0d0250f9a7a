"""Instances of one pool asked for a call: a slot leased, the call relayed, the slot given back, the answer kept.

Which pools are asked, and what happens where none of this one answers, is `targets`'.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from orchestrator import telemetry
from orchestrator.core.dialects.frames import body_type
from orchestrator.core.dialects.outcome import read_answer
from orchestrator.core.errors import CallerError, CapacityError, InstanceError
from orchestrator.core.escalation import Doubt, Reason
from orchestrator.core.model import Answer, Engine, Finish, Pool
from orchestrator.core.retrying import RetryBudget
from orchestrator.gateway.admission import Admission, Grant, Hit
from orchestrator.gateway.answer_cache import AnswerCache, Given
from orchestrator.gateway.asked import BYTES_A_TOKEN, TRIES, Asked, on_queued, wanted_of
from orchestrator.gateway.continuing import Plan, may_continue, order_of, plan_of
from orchestrator.gateway.counted import count_call
from orchestrator.gateway.doubting import Escalated, Watch, Watching, in_time
from orchestrator.gateway.joining import MadeElsewhere
from orchestrator.gateway.live import Live, Tier
from orchestrator.gateway.making import Refusal
from orchestrator.gateway.orders import order_for
from orchestrator.gateway.patience import Attempt, Patience
from orchestrator.gateway.relay import ClientGoneError, Order, Refused, Relayed, drain, relay
from orchestrator.gateway.replies import Reply, whole
from orchestrator.gateway.shown import CutShort
from orchestrator.gateway.story import QUEUE, Whom
from orchestrator.gateway.trace import Trace
from orchestrator.gateway.upstream import Connections, Exchange
from orchestrator.store.admission import Joined

log = logging.getLogger(__name__)

# In the middle of a stream, too, an instance is waited for that is being restarted.
ASK_AGAIN_S: Final = 1.0
_OLLAMA: Final = Engine.OLLAMA

# A kept answer given to who asked.
GiveKept = Callable[[Asked, Given], Awaitable[Reply | None]]


async def end_of(asked: Asked, relayed: Relayed, within_s: float) -> Reply | None:
    """What is left to tell of an answer: all of a whole one, or a stream's end, for which its caller is waited for."""
    if asked.client is None:
        return _reply_of(asked, relayed)
    if relayed.end.is_whole:
        await asked.client.finish(within_s)
    else:
        asked.client.abandon()
    return None


def _reply_of(asked: Asked, relayed: Relayed | Refused) -> Reply:
    """A whole answer, or a refusal."""
    if isinstance(relayed, Refused):
        return whole(relayed.content_type, relayed.body, asked.trace.fields(), relayed.status)
    return whole(body_type(asked.call.endpoint), relayed.body or b"", asked.trace.fields())


class Asking:
    """What it takes to have an instance answer."""

    def __init__(
        self,
        live: Live,
        admission: Admission,
        connections: Connections,
        patience: Patience,
        cache: AnswerCache,
        give_kept: GiveKept,
    ) -> None:
        self._live, self._admission, self._connections = live, admission, connections
        self._patience, self._cache, self._give_kept = patience, cache, give_kept
        self._draining: set[asyncio.Task[None]] = set()
        self._retries: dict[str, RetryBudget] = {}  # by pool

    async def close(self) -> None:
        """Cut what is still read for clients who left."""
        for each in self._draining:
            each.cancel()
        if self._draining:
            await asyncio.wait(self._draining)

    async def serve_from(self, asked: Asked, pool: Pool, watch: Watch | None = None) -> Reply | None:
        """Ask instances of a pool until one has answered. Raises Escalated where `watch` finds its answer wanting."""
        trace = asked.trace
        failed: tuple[str, ...] = ()
        budget = self._budget_of(pool)
        budget.called()
        wanted, tell = wanted_of(asked, pool), on_queued(asked)
        while True:
            if trace.story is not None:
                trace.story.begin(QUEUE, pool=pool.name)
            admitted = await self._admission.admit(pool, wanted, tell)
            if isinstance(admitted, Hit):
                if (given := self._cache.given(asked, admitted.kept)) is not None:
                    return await self._give_kept(asked, given)
                wanted = wanted._replace(answer_key="")
                continue
            if isinstance(admitted, Joined):
                raise MadeElsewhere(admitted.holder, admitted.lease)
            if asked.making is not None:
                asked.making.begin()
            trace.queue_s += admitted.waited_s
            trace.queued_behind = admitted.queued_behind
            if trace.story is not None:
                trace.story.end(QUEUE, instance=admitted.instance.id, queue_behind=admitted.queued_behind or 0)
            telemetry.TALLY.observe(telemetry.QUEUE_SECONDS, (pool.name,), admitted.waited_s)
            answer_key = wanted.answer_key
            del wanted  # an answer may last, and as a rule no other instance is asked
            try:
                return await self._ask(asked, pool, admitted, watch)
            except CutShort as cut:
                trace.failures += 1
                return await self._go_on(asked, pool, cut)
            except InstanceError as why:
                log.warning("%s: %s", trace.request_id, why)
                failed += (admitted.instance.id,)
                trace.failures += 1
                if trace.failures >= TRIES or len(failed) >= len(pool.instances):
                    raise
                if why.status and not budget.takes(time.monotonic()):
                    telemetry.TALLY.count(telemetry.RETRIES_SPARED, (pool.name,))
                    trace.gives_up = True
                    raise
                telemetry.TALLY.count(telemetry.RETRIES, (pool.name,))
                wanted = wanted_of(asked, pool)._replace(answer_key=answer_key, excluded=failed)

    def _budget_of(self, pool: Pool) -> RetryBudget:
        budget = self._retries.get(pool.name)
        if budget is None:
            budget = self._retries[pool.name] = RetryBudget(time.monotonic())
        return budget

    async def _go_on(self, asked: Asked, pool: Pool, cut: CutShort) -> Reply | None:
        """Have the rest of a stream told by other instances; where that may not be, its client hears that it broke."""
        trace, failed, outcome = asked.trace, [cut.instance], ""
        until_s = asyncio.get_running_loop().time() + self._live.rules.limits.between_bytes_s
        while not outcome:
            plan = plan_of(asked, cut)
            if isinstance(plan, str):
                outcome = plan
                break
            try:
                grant = await self._slot_for_rest(asked, pool, tuple(failed), until_s)
                failed.append(grant.instance.id)
                reply = await self._ask(asked, pool, grant, None, plan)
            except CutShort as again:
                cut = again
                trace.failures += 1
            except InstanceError as why:
                log.warning("%s: %s", trace.request_id, why)
                trace.failures += 1
                outcome = "failed" if trace.failures >= TRIES + trace.continued else ""
            except (CapacityError, CallerError) as why:
                log.warning("%s: not continued: %s", trace.request_id, why)
                outcome = "refused"
            else:
                telemetry.TALLY.count(telemetry.CONTINUED, (pool.name, "continued"))
                return reply
        telemetry.TALLY.count(telemetry.CONTINUED, (pool.name, outcome))
        self._end_broken(asked, cut)
        return None

    def _end_broken(self, asked: Asked, cut: CutShort) -> None:
        """A stream that is not continued, or not to its end."""
        client = asked.client
        assert client is not None, "only a stream is cut short"
        if cut.told:
            cut.shown.fail(cut.told)
        cut.shown.end()
        if asked.making is not None:
            asked.making.fail(cut, asked.trace.failures)
        client.abandon()

    async def _slot_for_rest(self, asked: Asked, pool: Pool, failed: tuple[str, ...], until_s: float) -> Grant:
        """A slot for a call in the middle of its answer: before all others, on none of the instances that failed it,
        unless they are all there are. Raises CapacityError where there is none in time."""
        now_s = asyncio.get_running_loop().time
        while True:
            pool = self._live.pool(pool.name) or pool
            others = [each.id for each in pool.instances if each.id not in failed]
            wanted = wanted_of(asked, pool, is_begun=True)._replace(answer_key="", making="", void="", priority=0)
            wanted = wanted._replace(excluded=failed if others else (), wait_s=max(0.1, until_s - now_s()))
            try:
                admitted = await self._admission.admit(pool, wanted)
            except CapacityError as why:
                if not why.is_passing or now_s() >= until_s:
                    raise
                await self._live.until_changed(ASK_AGAIN_S)
                continue
            assert isinstance(admitted, Grant), "no answer was asked for"
            return admitted

    async def _ask(
        self, asked: Asked, pool: Pool, grant: Grant, watch: Watch | None, plan: Plan | None = None
    ) -> Reply | None:
        """One instance asked, for an answer or (`plan`) for the rest of one; its slot given back whatever happens."""
        call, trace, rules = asked.call, asked.trace, self._live.rules
        trace.instance, trace.is_simulated = grant.instance.id, grant.instance.is_simulated
        client = asked.client
        began_s = time.perf_counter()
        is_last = trace.failures + 1 >= min(TRIES, len(pool.instances))
        attempt = self._patience.begin(grant.pool, grant.instance, call, asked.size, trace.failures, is_last)
        try:
            watching = None if watch is None else watching_of(watch, asked, rules.tiers.get(trace.tier))
            order = self._order(asked, pool, grant, plan, watching)
            if trace.story is not None:
                order = order._replace(traced=trace.story.ask(call.endpoint, _whom(grant), trace))
            # llama.cpp's server sees that its client has left, and frees the slot for certain.
            on_left = attempt.leave if rules.limits.drain_s and grant.instance.engine is _OLLAMA else None

            on_answer = partial(_first_byte, trace, grant.pool, began_s, attempt, is_rest=plan is not None)
            relaying = relay(self._connections, order, client, on_answer, on_left, attempt, asked.making)
            relayed = await (relaying if watching is None else in_time(watching, relaying))
            self._settle(asked, grant, relayed, None if watching is None else watching.late)
        except BaseException as why:
            is_started = client is not None and client.is_started and (plan is None or attempt.is_answered)
            if plan is None and not is_started and not attempt.is_answered:
                trace.waited_s += time.perf_counter() - began_s
            if isinstance(why, Escalated):
                self._escalate(asked, grant, why, attempt.left)
                raise
            if attempt.left is not None:
                self._drain(attempt.left, partial(self._left, grant), grant)
                count_call(trace, "gone")
            else:
                self._give_back(grant, why, trace, is_answering=is_started or attempt.is_answered)
            if client is None or not is_started or isinstance(why, asyncio.CancelledError | CutShort):
                raise
            if asked.making is not None:
                asked.making.fail(why, trace.failures)
            client.abandon()
            return None
        finally:
            attempt.ended()
        return _reply_of(asked, relayed) if client is None else await self._tell(asked, relayed)

    def _order(self, asked: Asked, pool: Pool, grant: Grant, plan: Plan | None, watching: Watching | None) -> Order:
        """What the instance is asked. Raises CallerError for what its engine cannot do."""
        rules = self._live.rules
        if plan is not None:
            return order_of(asked, plan, pool, grant.instance, rules.limits)
        keep = rules.cache.max_answer_bytes if asked.cache_key else 0
        order = order_for(asked.call, pool, grant.instance, rules.limits, keep, asked.trace.caller.name, watching)
        if asked.client is not None and may_continue(asked.call, pool, rules.limits):
            return order._replace(continues=True)
        return order

    async def _tell(self, asked: Asked, relayed: Relayed | Refused) -> Reply | None:
        """What is left to be told to who wants a stream: a refusal, or its end."""
        if isinstance(relayed, Refused):
            if asked.client is not None and asked.client.is_open:
                raise CallerError(relayed.status, relayed.body[:300].decode("utf-8", "replace").strip())
            return _reply_of(asked, relayed)
        return await end_of(asked, relayed, self._live.rules.limits.between_bytes_s)

    def _drain(self, exchange: Exchange, settle: Callable[[bool], None], grant: Grant) -> None:
        """Keep the slot of a stream that nobody wants until the instance is done with it, proven by its last byte."""
        within_s = self._live.rules.limits.drain_s

        async def drained() -> None:
            is_done = False
            try:
                is_done = await drain(self._connections, grant.instance, exchange, within_s)
            finally:
                settle(is_done)

        task = asyncio.get_running_loop().create_task(drained())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _left(self, grant: Grant, is_done: bool) -> None:
        """The client left; whether the instance has come to its end all the same."""
        if is_done:
            self._admission.unused(grant)
        else:
            self._admission.gone(grant, is_answering=True)

    def _escalate(self, asked: Asked, grant: Grant, why: Escalated, left: Exchange | None) -> None:
        """An answer that is not good enough: its slot given back, what it cost counted, nothing of it kept."""
        trace, tier = asked.trace, asked.trace.tier  # by the time a stream is drained, the next one's name stands there
        log.info("%s: escalated from %s: %s", trace.request_id, trace.tier, why.reason)

        def settle(is_done: bool) -> None:
            self._admission.doubted(grant, tier, trace.caller.name, why.tokens, is_answering=not is_done)

        if left is not None:
            self._drain(left, settle, grant)
        elif why.doubt.reason is Reason.TIMEOUT:
            self._admission.gone(grant, is_answering=False)
        else:
            settle(why.is_over)
        count_call(trace, "escalated", why.tokens)

    def _give_back(self, grant: Grant, why: BaseException, trace: Trace, *, is_answering: bool) -> None:
        """The slot of a call that was not answered, with a word on whose fault it was."""
        if isinstance(why, InstanceError):
            if why.answered:
                log.warning("%s: %s", trace.request_id, why)
            if why.retry_after_s:
                self._admission.busy(grant, why.retry_after_s)
            else:
                self._admission.failed(grant, is_dead=why.is_unreachable, is_hung=why.is_hung)
            count_call(trace, why.outcome if isinstance(why, CutShort) else "failed")
        elif isinstance(why, CallerError | CapacityError):
            self._admission.unused(grant)
            count_call(trace, "refused")
        elif isinstance(why, asyncio.CancelledError | ClientGoneError):
            self._admission.gone(grant, is_answering=is_answering)
            count_call(trace, "gone")
        else:
            log.exception("%s: a mistake of ours", trace.request_id, exc_info=why)
            self._admission.gone(grant, is_answering=is_answering)
            count_call(trace, "error")

    def _settle(self, asked: Asked, grant: Grant, relayed: Relayed | Refused, doubt: Doubt | None) -> None:
        """`doubt`: of an answer that was shown already; it is for nobody else."""
        trace = asked.trace
        if isinstance(relayed, Refused):
            self._admission.unused(grant)
            if asked.making is not None and not asked.has_answer:
                asked.making.refuse(Refusal(*relayed))
            count_call(trace, "refused")
            return
        if not relayed.end.is_whole:
            self._admission.failed(grant)
            if asked.making is not None:
                told = relayed.end.error or ""
                why = InstanceError(
                    grant.instance.id, "" if told else "ended before it was whole", answered=True, quoted=told
                )
                asked.making.fail(why, trace.failures + 1)
            count_call(trace, "cut")
            return
        answer, kept = answer_of(asked, relayed), None
        # Two instances need not say quite the same: what they said in turn is for those who asked.
        if answer is not None and relayed.body is not None and doubt is None and not trace.continued:
            is_kept = len(relayed.body) <= self._live.rules.cache.max_answer_bytes
            kept = self._cache.kept(asked, answer) if is_kept else None
        if doubt is not None:
            telemetry.TALLY.count(telemetry.DOUBTED_LATE, (asked.name, str(doubt.reason)))
        tokens = (relayed.end.prompt_tokens, relayed.end.completion_tokens)
        self._admission.served(grant, trace.tier, trace.caller.name, None if asked.is_route else kept, tokens)
        if kept is not None and asked.is_route:
            self._admission.keep(asked.name, kept)
            self._cache.learn(asked)
        count_call(trace, "ok", tokens)
        if asked.making is not None:
            if answer is not None:
                asked.making.end(answer)
            else:
                asked.making.fail(None)


def answer_of(asked: Asked, relayed: Relayed) -> Answer | None:
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


def watching_of(watch: Watch | None, asked: Asked, tier: Tier | None) -> Watching | None:
    """What judges the answer to come, by what is known of the tier's model; None: it is taken as it is.

    The time for which it is held back counts as waited for.
    """
    if watch is None or not asked.call.endpoint.is_answered_in_words:
        return None
    if tier is not None and tier.calibration is not None:
        watch = replace(watch, calibration=tier.calibration)

    def held(seconds: float) -> None:
        asked.trace.waited_s += seconds

    watching = Watching(watch, asked.call, asked.size // BYTES_A_TOKEN)
    watching.on_held = held
    return watching


def _whom(grant: Grant) -> Whom:
    """An instance, as traces tell of it."""
    there = grant.instance
    return Whom(there.engine.value, there.pool, there.host, there.port)


def _first_byte(trace: Trace, pool: str, began_s: float, attempt: Attempt, *, is_rest: bool) -> None:
    attempt.answered()
    if is_rest:
        trace.continued += 1
        return
    if trace.story is not None:
        trace.story.first_byte()
    waited_s = time.perf_counter() - began_s
    trace.waited_s += waited_s
    telemetry.TALLY.observe(telemetry.FIRST_BYTE_SECONDS, (pool,), waited_s)
