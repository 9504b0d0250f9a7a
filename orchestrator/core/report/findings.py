"""What an operator should know of a period, worst first, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from orchestrator.core.report.facts import Facts, Group

# The owner's plan: 60 % of answers from the cache, 30 % from the small tier, 10 % from the full one.
PLAN: Final = {"cache": 0.60, "small": 0.30, "full": 0.10}
OFF_PLAN: Final = 0.10
# Fewer calls than this say nothing about shares.
ENOUGH: Final = 50
SUCCESS_AT_LEAST: Final = 0.99
OVERHEAD_MS: Final = 20.0
QUEUE_P95_MS: Final = 2_000.0
REASONING_SHARE: Final = 0.5
ONE_CALLER: Final = 0.5
RETRIED: Final = 0.01
ESCALATED: Final = 0.3


class Weight(IntEnum):
    """How much a finding matters."""

    WRONG = 0
    COSTLY = 1
    WORTH_KNOWING = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """`told` is what was seen, `to_do` what changes it."""

    weight: Weight
    told: str
    to_do: str


def findings(facts: Facts) -> tuple[Finding, ...]:
    """All that follow from the facts, worst first."""
    found = [*_success(facts), *_cache(facts), *_waits(facts), *_tokens(facts), *_shares(facts), *_rest(facts)]
    return tuple(sorted(found, key=lambda each: each.weight))


def _success(facts: Facts) -> Iterator[Finding]:
    if facts.all.success < SUCCESS_AT_LEAST:
        worst = ", ".join(f"{name} {count}" for name, count in facts.outcomes if name != "ok")
        told = f"{1 - facts.all.success:.1%} of {facts.all.calls} calls were not answered: {worst}"
        yield Finding(Weight.WRONG, told, "`ollamactl doctor`, and `ollamactl calls --failed` names the calls")
    if facts.all.calls >= ENOUGH and facts.retried > RETRIED * facts.all.calls:
        told = f"{facts.retried} calls were asked of more than one instance because the first one failed"
        yield Finding(Weight.WRONG, told, "`ollamactl events` says which instances failed, and why")


def _cache(facts: Facts) -> Iterator[Finding]:
    cache = facts.cache
    if cache.off_since is not None:
        told = f"the answer cache is OFF since {cache.off_since:%Y-%m-%d %H:%M} UTC: {cache.off} calls"
        yield Finding(Weight.COSTLY, told, "`cache.enabled: true`, or ask a route, or temperature 0; `status` says why")
    elif cache.asked >= ENOUGH and not cache.hits:
        told = f"the answer cache is on, and not one of {cache.asked} calls was a hit"
        yield Finding(Weight.COSTLY, told, '`ollamactl cache explain "…"` says what two calls differ in')


def _waits(facts: Facts) -> Iterator[Finding]:
    if facts.overhead_ms.mean > OVERHEAD_MS:
        told = f"the gateway itself takes {facts.overhead_ms.mean:.0f} ms a call, at most {facts.overhead_ms.most:.0f}"
        yield Finding(Weight.COSTLY, told, "more `gateway.workers`, or fewer others on its machine")
    if facts.queue_ms.p95 > QUEUE_P95_MS:
        told = f"one call of twenty waits {facts.queue_ms.p95 / 1e3:.1f} s or longer for a slot"
        yield Finding(Weight.COSTLY, told, "more instances or slots: `ollamactl capacity` says what would do")


def _tokens(facts: Facts) -> Iterator[Finding]:
    for model in facts.models:
        share = model.reasoning_share
        if share is not None and share > REASONING_SHARE:
            told = f"{share:.0%} of what {model.name} writes is reasoning that nobody reads"
            yield Finding(Weight.COSTLY, told, "`think: false` or a lower `reasoning_effort` for these callers")


def _shares(facts: Facts) -> Iterator[Finding]:
    by_name = {each.name: each for each in facts.tiers}
    if facts.all.ok < ENOUGH or not by_name.keys() & {"small", "full"}:
        return
    for tier, planned in PLAN.items():
        share = by_name[tier].ok / facts.all.ok if tier in by_name else 0.0
        if abs(share - planned) > OFF_PLAN:
            told = f"{tier} answers {share:.0%} of calls, the plan says {planned:.0%}"
            yield Finding(Weight.WORTH_KNOWING, told, _TO_DO[tier])


_TO_DO: Final = {
    "cache": "curated answers (`cache.faq`), routes instead of models, `cache_paraphrases`; `cache stats` says more",
    "small": "`chat_full_from` and `task_full_from` of the route; `route explain` shows single questions",
    "full": "`chat_full_from` and `task_full_from` of the route; `route explain` shows single questions",
}


def _rest(facts: Facts) -> Iterator[Finding]:
    first = max(facts.callers, key=lambda each: each.calls, default=Group("", 0, 0))
    if len(facts.callers) > 1 and facts.all.calls >= ENOUGH and first.calls > ONE_CALLER * facts.all.calls:
        told = f"{first.name} made {first.calls / facts.all.calls:.0%} of all calls"
        yield Finding(Weight.WORTH_KNOWING, told, "`limits` of its key, if that is not meant")
    escalated = sum(count for _, count in facts.escalated)
    if facts.all.calls >= ENOUGH and escalated > ESCALATED * facts.all.calls:
        told = f"{escalated / facts.all.calls:.0%} of calls went on to a higher tier after an answer was made"
        yield Finding(Weight.COSTLY, told, "another small model, or a narrower route: such calls cost twice")
    if facts.simulated:
        told = f"{facts.simulated} of {facts.all.calls} answers were SIMULATED: their times are those of named cards"
        yield Finding(Weight.WORTH_KNOWING, told, "nothing here says what real hardware does")
