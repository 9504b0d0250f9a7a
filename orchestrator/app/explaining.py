"""Where a question would go and why, by the settings' own rules; with what a running cluster says of its targets.

Nobody is asked for an answer, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from orchestrator.app.rules import privacy_of, rules_from
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.difficulty import Difficulty
from orchestrator.core.escalation import Watch
from orchestrator.core.matching import Looked, conditions, failing, first_match
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.privacy import Discretion, find
from orchestrator.core.routing import choose_tier
from orchestrator.core.target import Budget
from orchestrator.gateway.choosing import difficulty_of
from orchestrator.gateway.discretion import judged, may_go, said_of, stricter
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Route, Rules, Tier
from orchestrator.settings import ClusterSettings

# A picture of one dot: only that there is one matters here.
_PICTURE: Final = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
_TOOL: Final = {"type": "function", "function": {"name": "any", "parameters": {"type": "object"}}}


@dataclass(frozen=True, slots=True)
class Asking:
    """A call as somebody would make it. `model` empty: the first route that has no `match`."""

    question: str
    model: str = ""
    path: Endpoint = Endpoint.OPENAI_CHAT
    headers: tuple[tuple[str, str], ...] = ()
    caller: str = "anonymous"
    has_tools: bool = False
    has_images: bool = False
    wants_json: bool = False

    def call(self, model: str) -> Call:
        """In the dialect of OpenAI, whose fields say all of it; rules see `path`."""
        content: Any = self.question
        if self.has_images:
            content = [{"type": "text", "text": content}, {"type": "image_url", "image_url": {"url": _PICTURE}}]
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
        body |= {"tools": [_TOOL]} if self.has_tools else {}
        body |= {"response_format": {"type": "json_object"}} if self.wants_json else {}
        return Call(Endpoint.OPENAI_CHAT, model, False, body)


def explain(settings: ClusterSettings, asking: Asking, status: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything that is known of a question before it is asked. `status`: what a running cluster tells of itself."""
    rules = rules_from(settings)
    model = asking.model or next((name for name, each in rules.routes.items() if each.match is None), "")
    call = asking.call(model)
    difficulty = difficulty_of(call)
    discretion = judged(call, rules)
    privacy = {"class": discretion.privacy, "why": discretion.why, "found": _found(asking.question)}
    targets = _Targets(rules, status, _caller(settings, asking.caller), dict(asking.headers))
    return {
        **asdict(difficulty),
        "privacy": privacy,
        **_taken(rules, call, asking),
        "routes": {name: targets.of_route(each, difficulty, call) for name, each in rules.routes.items()},
    }


def _caller(settings: ClusterSettings, name: str) -> Caller:
    """The key's holder, as far as it decides what may leave."""
    privacy = next((key.privacy for key in settings.keys if key.name == name), None)
    return Caller(name, privacy=privacy_of(privacy))


def _found(question: str) -> list[str]:
    """Kinds of private matter in it; never the matter itself."""
    return list(dict.fromkeys(each.kind for each in find(question)))


def _taken(rules: Rules, call: Call, asking: Asking) -> dict[str, Any]:
    """What is asked for, which route takes it, and what each match says of that."""
    routes = {canonical_model_name(name): name for name in rules.routes}
    named = routes.get(canonical_model_name(call.model)) if call.model else None
    headers = {name.lower().encode(): value.encode() for name, value in asking.headers}
    looked = Looked(call, asking.path.value, asking.caller, headers, is_for_route=named is not None)
    by_name = named if named is not None and rules.routes[named].match is not None else None
    taken = by_name or first_match(rules.matches, looked) or named
    return {
        "asks_for": call.model,
        "taken_by": taken,
        "matches": [
            {"route": name, "says": [*conditions(match)], "fails_on": failing(match, looked)}
            for name, match in rules.matches
        ],
    }


class _Targets:
    """The settings' targets as a route reaches them."""

    def __init__(
        self, rules: Rules, status: Mapping[str, Any] | None, caller: Caller, headers: Mapping[str, str]
    ) -> None:
        self._rules, self._caller = rules, caller
        self._stated = next((value for name, value in headers.items() if name.lower() == "x-privacy"), None)
        self._states = {} if status is None else status["tiers"]
        self._used = {} if status is None else {each["scope"]: each for each in status["limits"]}

    def of_route(self, route: Route, difficulty: Difficulty, call: Call) -> dict[str, Any]:
        """The tier chosen, by which rule, and everything behind it."""
        rule = route.rule
        if rule.is_fixed:
            tier, why, stays = rule.tiers[0], f"every question: {rule.tiers[0]}", ""
        else:
            decision = choose_tier(difficulty, rule)
            tier, why, stays = decision.tier, decision.why, decision.stays
        said = said_of(route.name, self._caller, self._stated, self._rules)
        discretion = stricter(said, judged(call, self._rules))
        higher = self._chain(self._rules.chain(route.escalate_to), discretion) if route.escalate_to else []
        chain = self._chain(self._rules.chain(tier), discretion)
        return {
            "tier": tier,
            "answers": next((each["tier"] for each in chain if _is_free(each)), None),
            "scored_by": "" if route.scorer is None else route.scorer.pool,
            "privacy": {"class": discretion.privacy, "why": discretion.why},
            "rule": why,
            "in_doubt": {"stays": stays, "rpm": route.unsure_rpm} if stays else None,
            "tiers": chain,
            "escalates_if": _watched(route.watch) if higher else [],
            "escalates_to": higher,
        }

    def _chain(self, tiers: Sequence[Tier], discretion: Discretion) -> list[dict[str, Any]]:
        return [{**self._told(tier), "may_answer": may_go(discretion, tier)} for tier in tiers]

    def _told(self, tier: Tier) -> dict[str, Any]:
        state = self._states.get(tier.name, {})
        budgets = {f"tier:{tier.name}": tier.budget}
        if tier.provider is not None:
            budgets[f"provider:{tier.provider.name}"] = tier.provider.budget
            budgets[f"target:{tier.provider.name}:{tier.model}"] = Budget()
        return {
            "tier": tier.name,
            "model": tier.target,
            "is_outside": tier.is_outside,
            "accepts": tier.accepts,
            "state": state.get("state", ""),
            "opens_in_s": state.get("opens_in_s", 0.0),
            "limits": [self._limits(scope, each) for scope, each in budgets.items() if self._says(scope, each)],
        }

    def _says(self, scope: str, budget: Budget) -> bool:
        used = self._used.get(scope)
        return not budget.is_endless or (used is not None and bool(used["used_up"]))

    def _limits(self, scope: str, budget: Budget) -> dict[str, Any]:
        allowed = {each.name: getattr(budget, each.name) for each in fields(budget)}
        used = self._used.get(scope, {"limits": {}, "used_up": "", "free_in_s": 0.0})
        return {
            "scope": scope,
            "allowed": {name: limit for name, limit in allowed.items() if limit is not None},
            "used": {name: each["used"] for name, each in used["limits"].items()},
            "used_up": used["used_up"] or "",
            "free_in_s": used["free_in_s"],
        }


def _is_free(target: Mapping[str, Any]) -> bool:
    """Whether it would be asked now, as far as one can tell."""
    is_used_up = any(each["used_up"] for each in target["limits"])
    return bool(target["may_answer"]) and target["opens_in_s"] == 0 and not is_used_up


def _watched(watch: Watch | None) -> list[str]:
    """What an answer is doubted for, as the settings say it."""
    if watch is None:
        return []
    told = asdict(watch.conditions)
    threshold = watch.conditions.tools_needed
    told["tools_needed"] = None if threshold is None else str(threshold)
    return [name if value is True else f"{name} {value}" for name, value in told.items() if value not in (None, False)]
