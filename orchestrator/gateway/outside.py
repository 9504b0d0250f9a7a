"""One outside provider asked for a call: the request in its words, the answer in the caller's, and what it cost.

Which tiers are asked, what their budgets allow and whether a call may leave the cluster at all is decided before
(`targets`); here it leaves. What the provider says of its own limits is told to `on_told`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from orchestrator import telemetry
from orchestrator.core.dialects.frames import stream_type
from orchestrator.core.dialects.provider_answer import (
    Used,
)
from orchestrator.core.dialects.provider_request import to_provider
from orchestrator.core.errors import CallerError, CapacityError, InstanceError
from orchestrator.core.escalation import Doubt
from orchestrator.core.target import Provider
from orchestrator.core.told import Told
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.answer_cache import AnswerCache
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.asking import answer_of, end_of, watching_of
from orchestrator.gateway.counted import count_call
from orchestrator.gateway.discretion import see_that_it_may_leave
from orchestrator.gateway.doubting import Escalated, Watch, Watching, in_time
from orchestrator.gateway.live import Live, Tier
from orchestrator.gateway.outside_answer import Attempt, FarAnswer, There, named
from orchestrator.gateway.outside_line import OutsideConnections, fields_of
from orchestrator.gateway.relay import ClientGoneError, Door, Order, Refused, Relayed, relay
from orchestrator.gateway.replies import Reply
from orchestrator.gateway.story import Whom

log = logging.getLogger(__name__)

CHAT_PATH: Final = "/chat/completions"

# Two clusters may each be the other's backup: a call that has gone from one to another this often goes no further.
HOPS: Final = "X-Ollamactl-Hops"
HOPS_AT_MOST: Final = 2

OnTold = Callable[[Tier, Told], None]


def _to_nobody(tier: Tier, told: Told) -> None:
    """Nobody keeps what providers say of their limits."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One provider as the settings have it, and the connections to it."""

    provider: Provider
    connections: OutsideConnections
    fields: str = field(repr=False)

    def door(self, hops: int) -> Door:
        """The headers of one call."""
        return Door(f"{self.fields}{HOPS}: {hops}\r\n")


class Outside:
    """What it takes to have a provider answer."""

    def __init__(self, live: Live, admission: Admission, cache: AnswerCache, on_told: OnTold = _to_nobody) -> None:
        self._live, self._admission, self._cache, self._on_told = live, admission, cache, on_told
        self._lines: dict[str, _Line] = {}

    def close(self) -> None:
        """Cut every connection."""
        for line in self._lines.values():
            line.connections.close()
        self._lines.clear()

    async def serve(self, asked: Asked, tier: Tier, watch: Watch | None = None) -> Reply | None:
        """Have the tier's provider answer; None where that was streamed.

        Raises as `Asking.serve_from`: InstanceError, CapacityError (the provider's own limits), CallerError, Escalated.
        What it cost is in the call's trace, also where it failed: `tokens`, and added to `usd`.
        """
        see_that_it_may_leave(asked, tier)
        provider = tier.provider
        assert provider is not None, "pools are asked by `Asking`"
        call, trace, client = asked.call, asked.trace, asked.client
        there = There(f"{provider.name}/{tier.model}", provider.host, provider.port)
        trace.instance, trace.is_simulated = there.id, False
        hops = _hops(asked)
        line = self._line(provider)
        attempt = Attempt()
        answer = FarAnswer(call, tier, there.id, attempt)
        watching = watching_of(watch, asked, tier)
        order = self._order(asked, there, answer, line.door(hops + 1), watching)
        if trace.story is not None:
            whom = Whom(provider.name, tier.model, provider.host, provider.port, is_outside=True)
            order = order._replace(traced=trace.story.ask(call.endpoint, whom, trace))
        if asked.making is not None:
            asked.making.begin()
        began_s, has_begun = time.perf_counter(), False

        def on_answer() -> None:
            nonlocal has_begun
            has_begun = True
            trace.is_simulated = attempt.is_simulated
            waited_s = time.perf_counter() - began_s
            trace.waited_s += waited_s
            telemetry.TALLY.observe(telemetry.FIRST_BYTE_SECONDS, (there.id,), waited_s)
            if trace.story is not None:
                trace.story.first_byte()

        try:
            relaying = relay(line.connections, order, client, on_answer, None, attempt, asked.making)
            relayed = await (relaying if watching is None else in_time(watching, relaying))
        except BaseException as why:
            is_started = client is not None and client.is_started
            if not is_started and not has_begun:
                trace.waited_s += time.perf_counter() - began_s
            if isinstance(why, Escalated):
                self._escalate(asked, tier, answer, why)
                raise
            self._failed(asked, tier, answer, why)
            if client is None or not is_started or isinstance(why, asyncio.CancelledError):
                raise
            if asked.making is not None:
                asked.making.fail(why, trace.failures)
            client.abandon()
            return None
        finally:
            self._heed(tier, attempt)
        assert not isinstance(relayed, Refused), "a translated refusal is raised"
        return await self._answered(asked, tier, answer, relayed, None if watching is None else watching.late)

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _line(self, provider: Provider) -> _Line:
        """The connections to a provider; new ones where the settings have changed it."""
        line = self._lines.get(provider.name)
        if line is None or line.provider != provider:
            if line is not None:
                line.connections.close()
            line = _Line(provider, OutsideConnections(provider), fields_of(provider))
            self._lines[provider.name] = line
        return line

    def _order(self, asked: Asked, there: There, answer: FarAnswer, door: Door, watching: Watching | None) -> Order:
        limits, call, tier = self._live.rules.limits, asked.call, answer.tier
        provider = tier.provider
        assert provider is not None
        judges = watching is not None and watching.needs_logprobs
        if watching is not None and judges:
            watching.hears_apart = True
            answer.tell_logprobs(watching.hear)
        return Order(
            call=call,
            instance=there,
            path=provider.prefix + CHAT_PATH,
            body=to_provider(call, tier.model, provider.manners, with_logprobs=judges),
            content_type=stream_type(call.endpoint),
            translation=answer,
            first_byte_s=limits.first_byte_s,
            between_bytes_s=limits.between_bytes_s,
            keep_bytes=self._live.rules.cache.max_answer_bytes if asked.cache_key else 0,
            outside=door,
            watching=watching,
        )

    # --- how it ended -------------------------------------------------------------------------------------------------

    async def _answered(
        self, asked: Asked, tier: Tier, answer: FarAnswer, relayed: Relayed, doubt: Doubt | None
    ) -> Reply | None:
        """`doubt`: of an answer that was shown already; it is for nobody else."""
        if not relayed.end.is_whole:
            self._count(asked, tier, "cut", answer.used(asked.size))
            if asked.making is not None:
                why = InstanceError(asked.trace.instance, "its answer ended before it was whole", answered=True)
                asked.making.fail(why, asked.trace.failures + 1)
        else:
            self._settle(asked, tier, answer.used(asked.size), relayed, doubt)
        return await end_of(asked, relayed, self._live.rules.limits.between_bytes_s)

    def _settle(self, asked: Asked, tier: Tier, used: Used, relayed: Relayed, doubt: Doubt | None) -> None:
        """A whole answer: counted, kept for others of its route, given to who waits for it."""
        telemetry.PROVIDER_OPEN.labels(*named(tier)).set(1)
        end = relayed.end._replace(prompt_tokens=used.prompt, completion_tokens=used.completion)
        answer = answer_of(asked, relayed._replace(end=end))
        limit = self._live.rules.cache.max_answer_bytes
        is_kept = relayed.body is not None and len(relayed.body) <= limit and asked.is_route and doubt is None
        kept = self._cache.kept(asked, answer) if answer is not None and is_kept else None
        if kept is not None:
            self._admission.keep(asked.name, kept)
            self._cache.learn(asked)
        if doubt is not None:
            telemetry.TALLY.count(telemetry.DOUBTED_LATE, (asked.name, str(doubt.reason)))
        self._count(asked, tier, "ok", used)
        if asked.making is not None:
            if answer is not None:
                asked.making.end(answer)
            else:
                asked.making.fail(None)

    def _escalate(self, asked: Asked, tier: Tier, answer: FarAnswer, why: Escalated) -> None:
        """An answer that is not good enough: counted, and nothing of it kept."""
        used = answer.used(asked.size) if answer.has_cost else Used()
        why.tokens = (used.prompt, used.completion)
        asked.trace.escalated = why.reason
        log.info("%s: escalated from %s: %s", asked.trace.request_id, tier.name, why)
        self._count(asked, tier, "escalated", used)

    def _failed(self, asked: Asked, tier: Tier, answer: FarAnswer, why: BaseException) -> None:
        """Whose fault it was is in the log and in the counts, and what it has cost all the same."""
        trace = asked.trace
        used = answer.used(asked.size) if answer.has_cost else Used()
        if isinstance(why, InstanceError | CapacityError):
            if isinstance(why, InstanceError) and not answer.is_our_mistake:
                log.warning("%s: %s", trace.request_id, why)
            self._count(asked, tier, "failed", used)
        elif isinstance(why, CallerError):
            self._count(asked, tier, "refused", used)
        elif isinstance(why, asyncio.CancelledError | ClientGoneError):
            self._count(asked, tier, "gone", used)
        else:
            log.error("%s: a mistake of ours", trace.request_id, exc_info=why)
            self._count(asked, tier, "error", used)

    def _count(self, asked: Asked, tier: Tier, outcome: str, used: Used) -> None:
        trace = asked.trace
        usd = 0.0 if tier.price is None else tier.price.of(used.prompt, used.completion)
        count_call(trace, outcome, (used.prompt, used.completion))
        trace.usd += usd  # of a lower tier's answer, too
        trace.reasoning_tokens, trace.cached_tokens = used.reasoning, used.cached
        if usd:
            telemetry.TALLY.count(telemetry.USD, (tier.name,), usd)
        if used.reasoning:
            telemetry.TALLY.count(telemetry.TOKENS, (tier.name, "reasoning"), used.reasoning)
        if outcome == "ok" or used.prompt:
            tokens = (used.prompt, used.completion, used.reasoning)
            self._admission.count_outside(asked.name, tier.name, trace.caller.name, trace.instance, tokens, usd)

    def _heed(self, tier: Tier, attempt: Attempt) -> None:
        told = attempt.told()
        if attempt.status not in (429, 503, 529):
            told = told._replace(retry_after_s=None)
        if not told.is_silent:
            self._on_told(tier, told)


def _hops(asked: Asked) -> int:
    """How many clusters the call has come through. Raises CapacityError where those are enough."""
    told = asked.request.header(HOPS.lower().encode())
    hops = int(told) if told.isascii() and told.isdigit() and len(told) < 4 else 0
    if hops >= HOPS_AT_MOST:
        raise CapacityError(f"the call came here through {hops} other clusters, and goes to no more", retry_after_s=30)
    return hops
