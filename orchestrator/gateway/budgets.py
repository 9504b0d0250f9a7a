"""Who may use how much: budgets of tiers, providers' accounts and API keys, claimed for a call and settled after it.

A key's requests are claimed once a call, before anything else, so that a cached answer is a request, too; its tokens
and dollars with each tier that is asked, since only those cost any. All gateways count together in Redis, by the rules
of `core.limits`; what happens while it is away is `budget_share`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from orchestrator import telemetry
from orchestrator.core import limits
from orchestrator.core.admission import Share
from orchestrator.core.errors import StoreError
from orchestrator.core.limits import Exhausted, Kind, Need, Refusal
from orchestrator.core.target import Budget
from orchestrator.core.told import Told
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.budget_claims import claims_of, key_scope, quota_scope, target_scope
from orchestrator.gateway.budget_share import BudgetShare, now_ms
from orchestrator.gateway.budget_words import allowed, header_fields, set_gauges, standings
from orchestrator.gateway.live import Live, Route, Tier
from orchestrator.store import budgets, callers
from orchestrator.store.budgets import Claim, Claimed, Ended
from orchestrator.store.connection import Connection

log = logging.getLogger(__name__)

# Gauges are read at least this often; and without Redis nothing newer is known of what other gateways used.
LOOK_EVERY_S: Final = 5.0
# Of callers by token, whom no settings name, what is used is looked at for so long after they asked.
LOOKED_AT_S: Final = 120.0
# What calls used is told together, this long after the first of them: against seconds of an answer nothing.
LATER_S: Final = 0.001
# This process' life, and its reservations counted: as unique as a random name for each, and cheaper.
_LIFE: Final = uuid.uuid4().hex
_NUMBERS: Final = itertools.count(1)


class Reserved(NamedTuple):
    """What was claimed for a call, until it is settled or released; nothing, where nothing is limited."""

    name: str
    claims: tuple[Claim, ...]
    tier: str = ""
    at_ms: int = 0  # of one that Redis does not know; otherwise 0


NOTHING: Final = Reserved("", ())


class Budgets:
    """The budgets of the settings, as one gateway asks for them. `share`: its part while Redis is away."""

    def __init__(self, live: Live, connection: Connection, share: Callable[[], Share], ttl_s: float) -> None:
        self._live, self._connection, self._ttl_s = live, connection, ttl_s
        self._share = BudgetShare(connection, share)
        self._usual: dict[str, float] = {}  # tokens of an answer, by tier
        self._under_way: dict[str, tuple[str, ...]] = {}  # scopes that count it, by reservation
        self._others: dict[str, tuple[Budget, int]] = {}  # of callers by token, by scope, and when they asked (unix ms)
        self._came_up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._ended: list[Ended] = []  # what Redis is told next
        self._leaving: asyncio.TimerHandle | None = None
        connection.on_up(self._came_up.set)

    async def start(self) -> None:
        """Begin to hold on to calls under way, and to look at what is used."""
        with suppress(StoreError):  # otherwise they are loaded once they are missed
            await budgets.load(self._connection)
        self._keeper = asyncio.create_task(self._keep(), name="budgets")

    async def close(self) -> None:
        """Stop; calls that are still under way are counted until their time is over."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
            self._keeper = None
        if self._leaving is not None:
            self._leaving.cancel()
            self._leave()
        try:
            await self._share.tell()
        except StoreError as why:
            log.warning("budgets: what was used without Redis is not counted: %s", why)

    # --- one call -----------------------------------------------------------------------------------------------------

    async def reserve_key(self, asked: Asked) -> Reserved | Exhausted:
        """One more request of the caller's key: once a call, before anything is looked up for it."""
        trace = asked.trace
        budget = trace.caller.budget
        if budget is None:
            return NOTHING
        holds = budget.concurrent is not None
        claim = Claim(key_scope(trace.caller), budget, Need(requests=1, holds=holds))
        if trace.caller.by != "key":
            self._others[claim.scope] = budget, now_ms()
        reserved = await self._claim((claim,), is_settled=holds)
        trace.limits = header_fields(budget, self._share.seen(claim.scope))
        return reserved

    async def reserve(self, asked: Asked, tier: Tier) -> Reserved | Exhausted:
        """What a tier will use for this call: of its own budget, of its provider's, and of the caller's key."""
        caller = asked.trace.caller
        if not tier.is_counted and caller.budget is None:
            return NOTHING
        claims = claims_of(asked, tier, round(self._usual.get(tier.name, limits.USUAL_ANSWER)))
        if not claims:
            return NOTHING
        reserved = await self._claim(claims, tier.name)
        if caller.budget is not None:
            asked.trace.limits = header_fields(caller.budget, self._share.seen(key_scope(caller)))
        return reserved

    async def may_go_up(self, asked: Asked, route: Route) -> bool:
        """Whether the caller's key may send one more question of this route up for doubt alone; counted, if so."""
        claim = Claim(quota_scope(route, asked.trace.caller), Budget(rpm=route.unsure_rpm), Need(requests=1))
        return isinstance(await self._claim((claim,), is_settled=False), Reserved)

    def settle(self, reserved: Reserved, tokens: tuple[int, int], usd: float) -> None:
        """Count what the call truly used: tokens of prompt and answer, dollars. Not waited for."""
        if not reserved.claims:
            return
        if reserved.tier and tokens[1]:
            before = self._usual.get(reserved.tier, limits.USUAL_ANSWER)
            self._usual[reserved.tier] = limits.usual_answer(before, tokens[1])
        total, nano = sum(tokens), limits.nano_of(usd)
        self._end(reserved, [each.need.settled(total, nano) for each in reserved.claims])

    def release(self, reserved: Reserved) -> None:
        """The call did not happen there: nothing was used."""
        if reserved.claims:
            self._end(reserved, [each.need.released for each in reserved.claims])

    def correct(self, tier: Tier, told: Told) -> None:
        """Keep to what a tier's provider says, here and in every other gateway."""
        if told.is_silent or tier.provider is None:
            return
        if self._connection.is_up:
            budgets.heed(self._connection, target_scope(tier), told)
        else:
            self._share.heed(target_scope(tier), told)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _claim(
        self, claims: tuple[Claim, ...], tier: str = "", *, is_settled: bool = True
    ) -> Reserved | Exhausted:
        name = f"{_LIFE}{next(_NUMBERS):x}" if is_settled else ""
        if not self._connection.is_up:
            self._share.say_alone()
            return self._claim_alone(name, claims, tier)
        try:
            claimed = await budgets.reserve(self._connection, name, claims, self._ttl_s)
        except (asyncio.CancelledError, StoreError) as why:
            # It may have been granted all the same; that nobody will use it, only we know.
            if name:
                budgets.settle(self._connection, (Ended(name, claims, [each.need.released for each in claims]),))
            if not isinstance(why, StoreError):
                raise
            self._share.say_alone(why)
            return self._claim_alone(name and f"{name}-alone", claims, tier)
        self._share.say_together()
        return self._claimed(name, claims, tier, claimed)

    def _claimed(self, name: str, claims: tuple[Claim, ...], tier: str, claimed: Claimed) -> Reserved | Exhausted:
        for claim, standing in zip(claims, claimed.standings, strict=True):
            self._share.saw(claim.scope, standing.used)
        if not claimed.is_granted:
            return _exhausted(claims, [each.refusal for each in claimed.standings])
        return self._begun(Reserved(name, claims, tier))

    def _claim_alone(self, name: str, claims: tuple[Claim, ...], tier: str) -> Reserved | Exhausted:
        at_ms = now_ms()
        under_way = Counter(scope for scopes in self._under_way.values() for scope in scopes)
        refusals = self._share.claim(claims, under_way, at_ms)
        if any(refusals):
            return _exhausted(claims, refusals)
        if not name:
            for each in claims:
                self._share.settle(each, each.need, at_ms)
        return self._begun(Reserved(name, claims, tier, at_ms))

    def _begun(self, reserved: Reserved) -> Reserved:
        if not reserved.name:
            return NOTHING
        if held := tuple(each.scope for each in reserved.claims if each.need.holds):
            self._under_way[reserved.name] = held
        return reserved

    def _end(self, reserved: Reserved, used: Sequence[Need]) -> None:
        was_held = self._under_way.pop(reserved.name, None) is not None
        # One that began without Redis was held on to there since it came back.
        if not reserved.at_ms or (was_held and self._connection.is_up):
            self._ended.append(Ended(reserved.name, reserved.claims, used))
            if self._leaving is None:
                self._leaving = asyncio.get_running_loop().call_later(LATER_S, self._leave)
        if not reserved.at_ms:
            return
        for claim, need in zip(reserved.claims, used, strict=True):
            self._share.settle(claim, need, reserved.at_ms)

    def _leave(self) -> None:
        self._leaving = None
        ended, self._ended = self._ended, []
        budgets.settle(self._connection, ended)

    # --- behind calls -------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Each few seconds, and at once when Redis has come back: say what is under way, look at what is used."""
        while True:
            with suppress(TimeoutError):  # The period is over.
                async with asyncio.timeout(min(LOOK_EVERY_S, self._ttl_s / 3)):  # see CPython 86296
                    await self._came_up.wait()
            self._came_up.clear()
            if self._connection.is_up:
                try:
                    await self._share.tell()
                    await self._hold()
                    await self.look()
                except StoreError as why:
                    log.warning("budgets: not looked at for now: %s", why)

    async def _hold(self) -> None:
        by_scope: dict[str, list[str]] = defaultdict(list)
        for name, scopes in self._under_way.items():
            for scope in scopes:
                by_scope[scope].append(name)
        anew = 0
        for scope, names in by_scope.items():
            held = [each for each in names if each in self._under_way]  # others have ended meanwhile
            anew += await budgets.hold(self._connection, {scope: held}, self._ttl_s)
        if anew:
            log.warning("budgets: Redis did not know %d calls under way; they are counted again", anew)

    async def look(self) -> None:
        """See what all gateways together have used, and say it as gauges. Raises StoreError."""
        named, since_ms = self._live.rules.budgets, now_ms() - int(LOOKED_AT_S * 1000)
        self._others = {scope: told for scope, told in self._others.items() if told[1] > since_ms}
        await callers.note(self._connection, self._others)
        if scopes := {**named, **{scope: budget for scope, (budget, _) in self._others.items()}}:
            for scope, standing in (await standings(self._connection, scopes)).items():
                self._share.saw(scope, standing.used)
                if scope in named:  # how many others there are is for nobody here to say, so they are no series
                    set_gauges(scope, named[scope], standing.used)
        self._share.forget(since_ms)  # not while Redis is away: what was seen last is what there is to go by


def _exhausted(claims: Sequence[Claim], refusals: Sequence[Refusal | None]) -> Exhausted:
    """The refusal that lasts longest, counted."""
    refused = [(claim, each) for claim, each in zip(claims, refusals, strict=True) if each is not None]
    claim, refusal = max(refused, key=lambda each: each[1].wait_ms)
    kind = refusal.kind
    telemetry.TALLY.count(telemetry.LIMIT_REFUSALS, (_label(claim.scope), kind.value))
    limit = None if kind is Kind.TOLD else allowed(claim.budget, kind)
    return Exhausted(claim.scope, kind.value, refusal.wait_ms / 1000, limit)


def _label(scope: str) -> str:
    """A scope as a series: of quotas the route, of callers by token their issuer, who knows any number of them."""
    if scope.startswith("quota:"):
        return scope.rpartition(":")[0]
    return scope.partition("/")[0] if scope.startswith("key:") else scope
