"""Which target answers a call: the tiers of its route in turn, and how long it waits where none can at this moment.

A call that names a pool goes there and nowhere else. One of a route goes down its chain: past tiers it may not go to,
that are left alone or used up, to the first that answers; and up once more where that one's answer is not good enough.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from orchestrator import telemetry
from orchestrator.core import limits
from orchestrator.core.breaker import Ended, Permit
from orchestrator.core.cache_policy import Standing
from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.conversation import has_images
from orchestrator.core.dialects.errors import caller_error, error_frame
from orchestrator.core.dialects.frames import Stats
from orchestrator.core.errors import CallerError, CapacityError, InstanceError, OrchestratorError
from orchestrator.core.escalation import Watch
from orchestrator.core.limits import Exhausted
from orchestrator.core.model import Answer, Engine, InstanceState, Pool
from orchestrator.gateway import discretion
from orchestrator.gateway.answer_cache import Given
from orchestrator.gateway.asked import TRIES, Asked, may_wait_yet_s, names_tier, wait_of
from orchestrator.gateway.asking import GiveKept
from orchestrator.gateway.breakers import UNCOUNTED, Breakers
from orchestrator.gateway.budgets import Budgets, Reserved
from orchestrator.gateway.counted import count_call
from orchestrator.gateway.doubting import Escalated
from orchestrator.gateway.handing import FAILED_S, Gone
from orchestrator.gateway.live import Live, Route, Tier
from orchestrator.gateway.outside import Outside
from orchestrator.gateway.replies import Reply
from orchestrator.gateway.telling import tell
from orchestrator.gateway.trace import Trace

log = logging.getLogger(__name__)

# A pool whose instances are all being restarted is asked again when it is published anew, and this often besides:
# the end of an ejection is not published.
ASK_AGAIN_S = 1.0
# Between the end of a pool's only instance and the start of the one in its place there is none; a pool that could not
# be placed has none either, and its callers are told so after this.
WITHOUT_INSTANCES_S = 10.0
# How a call ended that was begun to be answered, and not answered whole.
_CUT = ("failed", "cut")
# How one ended that was answered, well or not.
_ANSWERED = ("ok", "cut", "refused")


class _Step(NamedTuple):
    """A tier to be asked, and what its answer is doubted for; None: it is taken as it is."""

    tier: Tier
    watch: Watch | None = None


class _Way(NamedTuple):
    """Leave to ask a tier, of its breaker and of its budgets."""

    permit: Permit
    reserved: Reserved


class _Doubted(NamedTuple):
    """Whose answer was not good enough, and what it said, where that was whole."""

    tier: str
    instance: str
    is_simulated: bool
    reasoning_tokens: int | None
    cached_tokens: int
    answer: Answer | None

    @property
    def is_whole(self) -> bool:
        """It may be given, if nobody has a better one."""
        return self.answer is not None


class Inside(Protocol):
    """Answers for pools of the cluster."""

    async def serve_from(self, asked: Asked, pool: Pool, watch: Watch | None = None, /) -> Reply | None:
        """Raises our errors."""


class Sides(NamedTuple):
    """What answers calls: the cluster's own pools, and providers outside."""

    inside: Inside
    outside: Outside


class Targets:
    """The tiers of the settings, asked for calls."""

    def __init__(self, live: Live, sides: Sides, budgets: Budgets, breakers: Breakers, give_kept: GiveKept) -> None:
        self._live, self._sides, self._budgets, self._breakers = live, sides, budgets, breakers
        self._give_kept = give_kept

    async def serve(self, asked: Asked) -> Reply | None:
        """Have a target answer; where all instances are away for a moment, wait for one as for a free slot.

        An error is raised, or told within the stream where its head is out.
        """
        asked = self._to_who_sees(asked)
        came_s = time.perf_counter()
        gone = Gone(asked.name, asked.trace) if asked.is_route else None
        try:
            while True:
                try:
                    return await (self._serve_pool(asked) if gone is None else self._serve_route(asked, gone))
                except (CapacityError, InstanceError) as why:
                    again_s = self._again_s(asked, why, came_s)
                    if again_s is None:
                        if gone is None or (isinstance(why, CapacityError) and not why.is_passing):
                            raise
                        raise gone.error() from why
                began_s = time.perf_counter()
                await self._live.until_changed(again_s)
                asked.trace.queue_s += time.perf_counter() - began_s
        except OrchestratorError as why:
            client, spare = asked.client, asked.trace.spare
            if spare is not None and not isinstance(why, CallerError) and (client is None or not client.is_open):
                log.warning("%s: answered from the cache, late: %s", asked.trace.request_id, why)
                return await self._give_kept(asked, Given(spare, Standing.SPARE))
            if client is None or not client.is_open:
                raise
            log.warning("%s: %s", asked.trace.request_id, why)
            if asked.making is not None:
                asked.making.fail(why, asked.trace.failures)
            client.write([error_frame(asked.call.endpoint, str(why))])
            client.abandon()
            return None

    def _again_s(self, asked: Asked, why: CapacityError | InstanceError, came_s: float) -> float | None:
        """Seconds until all are to be asked again, at the latest; None: that is of no use."""
        waited_s = time.perf_counter() - came_s
        left_s = may_wait_yet_s(asked, waited_s, self._live.rules.limits.queue_wait_s)
        if left_s <= 0 or not self._may_pass(asked, why, waited_s):
            return None
        alone_s = why.retry_after_s if isinstance(why, InstanceError) else 0.0
        return min(max(ASK_AGAIN_S, alone_s), left_s)

    def _to_who_sees(self, asked: Asked) -> Asked:
        """A call with images, and of its tiers those whose models can see. Raises CallerError where none can.

        An Ollama of before 0.30 answers as if there were no image, a newer one in the words of its runner.
        """
        if not has_images(asked.call):
            return asked
        able = tuple(tier for tier in asked.tiers if self._sees(tier))
        if not able:
            raise caller_error(400, f"{gojson.quote(asked.call.model)} does not support images")
        return asked._replace(tiers=able)

    def _sees(self, tier: Tier) -> bool:
        """Whether a tier's model can be given images, or may be able to, as far as one can tell."""
        pool = None if tier.is_outside else self._live.pool(tier.pool)
        if pool is None or any(each.engine is not Engine.OLLAMA for each in pool.instances):
            return True
        abilities = (pool.details.get("show") or {}).get("capabilities")
        return not abilities or "vision" in abilities

    def _may_pass(self, asked: Asked, why: CapacityError | InstanceError, waited_s: float) -> bool:
        """Whether it is worth waiting: an instance is there, or on its way, that this call has not failed too often."""
        if asked.trace.spare is not None:
            return False
        if asked.trace.failures >= TRIES or asked.trace.gives_up:
            return False
        if isinstance(why, CapacityError) and not why.is_passing:
            return False
        pools = [pool for tier in asked.tiers if (pool := self._live.pool(tier.pool)) is not None]
        if waited_s < WITHOUT_INSTANCES_S and any(not pool.instances for pool in pools):
            return True
        return any(each.state is not InstanceState.DOWN for pool in pools for each in pool.instances)

    def _serve_pool(self, asked: Asked) -> Awaitable[Reply | None]:
        """A pool that was asked for by its name. Raises CapacityError where it is away."""
        (tier,) = asked.tiers
        pool = self._live.pool(tier.pool)
        if pool is None:
            raise CapacityError(f"no instance serves {asked.name} now", retry_after_s=5)
        asked.trace.tier = tier.name
        if asked.trace.caller.budget is None:
            return self._sides.inside.serve_from(asked, pool)
        return self._serve_counted(asked, tier, pool)

    async def _serve_counted(self, asked: Asked, tier: Tier, pool: Pool) -> Reply | None:
        """The same for a key whose tokens or dollars are counted. Raises CapacityError 429 where they are used up."""
        reserved = await self._budgets.reserve(asked, tier)
        if isinstance(reserved, Exhausted):
            raise reserved.as_error()
        asked.trace.outcome, asked.trace.tokens = "", (0, 0)
        try:
            return await self._sides.inside.serve_from(asked, pool)
        finally:
            self._settle(asked, tier, reserved, None)

    # --- a route ------------------------------------------------------------------------------------------------------

    async def _serve_route(self, asked: Asked, gone: Gone) -> Reply | None:
        """Ask the tiers of a route in turn until one answers. Raises CapacityError, InstanceError: where some instance
        may be back in a moment what the last tier said, otherwise that all are gone."""
        route = self._live.rules.routes.get(asked.name)  # None: no more, since the call came
        last: CapacityError | InstanceError | None = None
        doubted: _Doubted | None = None
        tiers = await discretion.allowed(asked, self._live.rules, asked.tiers)
        doubts = None if names_tier(asked.request) else route
        ahead = deque(_Step(tier, _watch_of(tier, doubts)) for tier in tiers)
        has_backups = len(ahead) > 1
        while ahead:
            step = ahead.popleft()
            is_spared, has_answer = has_backups or step.tier.is_outside, doubted is not None and doubted.is_whole
            way = await self._way_to(asked, step.tier, gone, is_spared=is_spared, has_answer=has_answer)
            if way is None:
                continue
            if doubted is not None and doubted.tier == step.tier.name:
                asked.trace.escalated = ""  # nobody higher was there
            try:
                reply = await self._ask(asked._replace(has_answer=has_answer), step, way)
                if not has_answer or reply is None or asked.trace.outcome != "refused":
                    return reply
                gone.add(step.tier.name, "refused", FAILED_S)  # what another one has answered
            except Escalated as why:
                doubted = _doubted_of(asked.trace, why.answer)
                ahead = await self._upwards(asked, step, why, gone)
                has_backups = True
            except (CapacityError, InstanceError) as why:
                gone.failed(step.tier.name, why)
                last = why
            except CallerError:
                if not has_answer or (asked.client is not None and asked.client.is_started):
                    raise
                gone.add(step.tier.name, "refused", FAILED_S)
        if doubted is not None and doubted.answer is not None:
            return await self._tell_doubted(asked, doubted, doubted.answer)
        if last is None or (isinstance(last, CapacityError) and not last.is_passing):
            raise gone.error()
        raise last

    async def _upwards(self, asked: Asked, step: _Step, why: Escalated, gone: Gone) -> deque[_Step]:
        """Who answers in place of a tier whose answer is doubted; at last that tier, if it has said nothing whole."""
        trace, rules = asked.trace, self._live.rules
        itself = [] if why.answer is not None else [_Step(step.tier)]
        route = rules.routes.get(asked.name)
        if route is None:
            return deque(itself)
        if not await self._budgets.may_go_up(asked, route):
            used_up = f"the {route.unsure_rpm} a minute of {trace.caller.name} are used up"
            gone.doubted(step.tier.name, f"{why}, and {used_up}")
            return deque(itself)
        trace.escalated = why.reason
        gone.doubted(step.tier.name, str(why))
        higher = [tier for tier in rules.chain(route.escalate_to) if tier.name != step.tier.name]
        if has_images(asked.call):
            higher = [tier for tier in higher if self._sees(tier)]
        discreet = trace.discretion
        if any(tier.is_outside for tier in higher):
            discreet = await discretion.discretion_of(asked, rules)
        may = [tier for tier in higher if discreet is None or discretion.may_go(discreet, tier)]
        return deque([*(_Step(tier) for tier in may), *itself])

    async def _tell_doubted(self, asked: Asked, doubted: _Doubted, said: Answer) -> Reply | None:
        """A doubted answer is better than none."""
        trace = asked.trace
        trace.tier, trace.instance, trace.escalated = doubted.tier, doubted.instance, ""
        trace.is_simulated = doubted.is_simulated
        trace.reasoning_tokens, trace.cached_tokens = doubted.reasoning_tokens, doubted.cached_tokens
        if asked.making is not None:
            asked.making.end(said)
        count_call(trace, "ok")  # its tokens were counted when it was made
        trace.tokens = (said.prompt_tokens, said.completion_tokens)
        stats = Stats(prompt_tokens=said.prompt_tokens)
        return await tell(asked, said, stats, self._live.rules.limits.between_bytes_s)

    async def _way_to(self, asked: Asked, tier: Tier, gone: Gone, *, is_spared: bool, has_answer: bool) -> _Way | None:
        """Leave to ask this tier; None: not now.

        Raises CapacityError 429 where the caller's own budget is used up, unless there is an answer that may be given.
        """
        if not tier.is_outside and self._live.pool(tier.pool) is None:
            gone.add(tier.name, "gone", FAILED_S)
            return None
        permit = self._breakers.ask(tier) if is_spared else UNCOUNTED
        if permit is None:
            gone.add(tier.name, "left alone", self._breakers.opens_in_s(tier))
            return None
        try:
            reserved = await self._budgets.reserve(asked, tier)
        except BaseException:
            self._breakers.end(tier, permit, Ended.UNASKED)
            raise
        if not isinstance(reserved, Exhausted):
            return _Way(permit, reserved)
        self._breakers.end(tier, permit, Ended.UNASKED)
        if reserved.ends_call and not has_answer:
            raise reserved.as_error()
        gone.used_up(tier.name, reserved)
        return None

    async def _ask(self, asked: Asked, step: _Step, way: _Way) -> Reply | None:
        """One tier asked; its breaker and its budgets told what came of that."""
        tier, trace = step.tier, asked.trace
        trace.tier, trace.outcome, trace.tokens = tier.name, "", (0, 0)
        trace.reasoning_tokens, trace.cached_tokens = None, 0
        if trace.story is not None:
            trace.story.begin(f"tier {tier.name}", tier=tier.name)
        ended, before_s, began_s = Ended.UNASKED, trace.queue_s + trace.waited_s, time.perf_counter()
        first_byte_s, tokens = 0.0, None
        try:
            reply = await self._answer_from(asked, step)
            ended = Ended.BADLY if trace.outcome in _CUT else Ended.WELL
            first_byte_s = trace.queue_s + trace.waited_s - before_s
            return reply
        except Escalated as why:
            ended, tokens = Ended.WELL, why.tokens
            raise
        except InstanceError:
            ended = Ended.BADLY
            raise
        except CapacityError:
            # Waiting in vain is slow; how long a caller is ready to wait at all is no matter of the tier.
            slow_s = tier.breaker.slow_s
            ended = Ended.BADLY if slow_s is not None and time.perf_counter() - began_s > slow_s else Ended.UNASKED
            raise
        finally:
            self._breakers.end(tier, way.permit, ended, first_byte_s)
            self._settle(asked, tier, way.reserved, tokens)
            if trace.story is not None:
                trace.story.end(f"tier {tier.name}", outcome=trace.outcome)

    async def _answer_from(self, asked: Asked, step: _Step) -> Reply | None:
        if step.tier.is_outside:
            wait_of(asked)  # which raises where its deadline has passed
            return await self._sides.outside.serve(asked, step.tier, step.watch)
        pool = self._live.pool(step.tier.pool)
        if pool is None:  # unpublished while its budget was asked for
            raise CapacityError(f"no instance serves {step.tier.pool} now", retry_after_s=5, is_passing=True)
        return await self._sides.inside.serve_from(asked, pool, step.watch)

    def _settle(self, asked: Asked, tier: Tier, reserved: Reserved, tokens: tuple[int, int] | None) -> None:
        """What the call truly used, as far as anybody counted it. `tokens`: of an answer that was doubted."""
        trace = asked.trace
        if trace.tier == "cache":  # found by whoever was to lease a slot: the tier was not asked
            self._budgets.release(reserved)
            return
        if tokens is None:
            if trace.outcome == "gone" and not any(trace.tokens):
                # Read at least, and heard as far as they stayed: to leave before the end does not make it free.
                tokens = (limits.prompt_tokens(asked.size), asked.client.heard_tokens if asked.client else 0)
            elif trace.outcome in _ANSWERED or any(trace.tokens):
                tokens = trace.tokens
            else:
                self._budgets.release(reserved)
                return
        usd = 0.0 if tier.price is None else tier.price.of(*tokens)
        if not tier.is_outside:  # `Outside` has counted its own
            trace.usd += usd
            if usd:
                telemetry.TALLY.count(telemetry.USD, (tier.name,), usd)
        self._budgets.settle(reserved, tokens, usd)


def _doubted_of(trace: Trace, answer: Answer | None) -> _Doubted:
    """The answer that was told of last, before another tier is asked."""
    counts = trace.reasoning_tokens, trace.cached_tokens
    return _Doubted(trace.tier, trace.instance, trace.is_simulated, *counts, answer)


def _watch_of(tier: Tier, route: Route | None) -> Watch | None:
    """What the tier's answer is doubted for; that of the tier which has the last word is not."""
    return None if route is None or tier.name == route.escalate_to else route.watch
