"""Which route a call takes, and which tier of it answers first: rules, then difficulty, then what a key may send up."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from orchestrator import telemetry
from orchestrator.core.dialects.conversation import wants_format
from orchestrator.core.dialects.parse import turns
from orchestrator.core.difficulty import Difficulty, score
from orchestrator.core.errors import CallerError
from orchestrator.core.matching import Looked, first_match
from orchestrator.core.model import Call
from orchestrator.core.routing import Decision, choose_tier, choose_unscored, kept_down
from orchestrator.gateway.asked import TIER, Asked
from orchestrator.gateway.identity import ADMIN, with_scope
from orchestrator.gateway.live import Route, Rules, Tier
from orchestrator.gateway.request import Request
from orchestrator.gateway.scoring import Scoring
from orchestrator.gateway.trace import Trace

log = logging.getLogger(__name__)

# Whether a key may send one more question up for doubt alone.
MayGoUp = Callable[[Asked, Route], Awaitable[bool]]


def route_by_rules(call: Call, request: Request, trace: Trace, known: str | None, rules: Rules) -> str | None:
    """The route whose `match` holds, for a call that asks for `known`, or for a name that nobody knows (None).

    Who asks for a route that has a `match` by its own name has said which one it shall be.
    """
    route = rules.routes.get(known) if known is not None else None
    if call.endpoint.is_embedding or (route is not None and route.match is not None):
        return None
    looked = Looked(call, call.endpoint.value, trace.caller.name, request.headers, is_for_route=route is not None)
    return first_match(rules.matches, looked)


def tier_by_name(asked: Asked, rules: Rules) -> Tier | None:
    """The tier that the call itself names; with the scope `admin`, for nobody else may pass the router by.

    Raises CallerError 403 for others, 400 where there is no such tier.
    """
    name = asked.request.header(TIER)
    if not name:
        return None
    with_scope(asked.trace.caller, ADMIN)
    if name not in rules.tiers:
        raise CallerError(400, f"X-Tier: no such tier; tiers are: {', '.join(rules.tiers)}")
    asked.trace.route_reasons = (f"asked for by name: {name}",)
    return rules.tiers[name]


class Choosing:
    """Chooses tiers. `may_go_up` counts the questions that do so for doubt; `scoring` asks models that judge."""

    def __init__(self, may_go_up: MayGoUp, scoring: Scoring) -> None:
        self._may_go_up, self._scoring = may_go_up, scoring

    async def decide(self, asked: Asked, route: Route) -> Decision:
        """The tier that answers first, and why."""
        began_s = time.perf_counter()
        decision = await self._judged(asked, route)
        if decision.stays:
            may_go_up = await self._may_go_up(asked, route)
            telemetry.TALLY.count(telemetry.UNSURE, (route.name, "up" if may_go_up else "down"))
            if not may_go_up:
                used_up = f"the {route.unsure_rpm} a minute of {asked.trace.caller.name} are used up"
                decision = kept_down(decision, used_up)
        asked.trace.route, asked.trace.route_reasons = route.name, decision.reasons  # one made anew has no route yet
        asked.trace.route_s = time.perf_counter() - began_s
        return decision

    async def _judged(self, asked: Asked, route: Route) -> Decision:
        rule = route.rule
        if rule.is_fixed:
            return Decision(rule.tiers[0], (f"every question: {rule.tiers[0]}",))
        difficulty = self._trained(asked)
        if difficulty is None:
            return choose_unscored(rule, "its difficulty could not be judged")
        if route.scorer is not None:
            difficulty = await self._scoring.score(asked, route.scorer, difficulty)
        return choose_tier(difficulty, rule)

    def _trained(self, asked: Asked) -> Difficulty | None:
        """A mistake of ours in judging a text is no reason to refuse its question."""
        try:
            return difficulty_of(asked.call)
        except Exception as why:  # noqa: BLE001 - whatever text it is that no feature was made for
            # The error's own text may hold the question's.
            log.error("%s: its difficulty could not be judged: %s", asked.trace.request_id, type(why).__name__)
            return None


def difficulty_of(call: Call) -> Difficulty:
    """How hard its last question is, by the trained weights."""
    return score(turns(call), has_tools=bool(call.body.get("tools")), has_schema=wants_format(call))
