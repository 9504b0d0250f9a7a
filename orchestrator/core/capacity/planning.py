"""The cheapest cards that carry a load within its goals, and what changes when an assumption does.

Tiers are looked at one by one, on cards of their own: a tier's cheapest pool does not depend on the other's, if users
are taken to be away from it for their thinking alone. That is a little more than they ask in truth, so a plan found
here keeps its goals; `carrying` then says how it does with all tiers together. Two models on one card are not planned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from orchestrator.core.capacity.carrying import P95, Outcome, Plan, carry
from orchestrator.core.capacity.demand import Load
from orchestrator.core.capacity.prices import Basis, Terms, monthly_usd, prices
from orchestrator.core.capacity.queueing import closed_queue, late_share
from orchestrator.core.capacity.service import Pool, instances_that_fit, service_times
from orchestrator.core.cards import Card
from orchestrator.core.model import ModelShape

SLOTS: Final = (1, 2, 4, 8, 16)
MOST_CARDS: Final = 256


@dataclass(frozen=True, slots=True)
class Model:
    """A tier's model by name and shape."""

    name: str
    shape: ModelShape


@dataclass(frozen=True, slots=True)
class Wish:
    """What may be planned with. `slots`: of one instance, each tried; one instance a card (more read weights more)."""

    small: Model
    full: Model
    cards: tuple[Card, ...] = tuple(each.card for each in prices())
    slots: tuple[int, ...] = SLOTS
    context: int = 4096
    kv_type: str = "f16"
    basis: Basis = Basis.RENT
    terms: Terms = field(default_factory=Terms)
    other_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that keeps its goals, a month's dollars, and how it does."""

    plan: Plan
    usd: float
    outcome: Outcome

    @property
    def usd_a_user(self) -> float:
        return self.usd / self.outcome.users


def candidates(wish: Wish, load: Load) -> tuple[Candidate, ...]:
    """Plans that carry `load`, cheapest first: of all cards and of each kind alone, with a small tier and without.

    Without the small tier its calls have the full tier's goal. Empty where no card of the list can keep the goals.
    """
    kinds = [wish.cards, *((card,) for card in wish.cards)]
    found: dict[Plan, Candidate] = {}
    for cards in kinds:
        for is_tiered in (True, False):
            plan = _plan(replace(wish, cards=tuple(cards)), load, is_tiered=is_tiered)
            if plan is not None:
                found[plan] = Candidate(plan, _usd(plan, wish), carry(plan, load))
    return tuple(sorted(found.values(), key=lambda each: (each.usd, len(each.plan.pools), each.plan.name)))


def cheapest(wish: Wish, load: Load, *, is_tiered: bool = True) -> Candidate | None:
    """The cheapest plan with a small tier, or of the full model alone; None where no card can keep the goals."""
    plan = _plan(wish, load, is_tiered=is_tiered)
    return None if plan is None else Candidate(plan, _usd(plan, wish), carry(plan, load))


def fewest_cards(pool: Pool, load: Load, share: float, goal_s: float) -> Pool | None:
    """`pool` with just enough cards for `share` of the load's calls to keep `goal_s`; None where none are enough."""
    is_enough = partial(_keeps, pool, load, share, goal_s)
    if not _keeps_alone(pool, load, goal_s):
        return None
    high = 1
    while not is_enough(high):
        high *= 2
        if high > MOST_CARDS:
            return None
    return replace(pool, cards=_first_true(is_enough, high // 2, high))


def _first_true(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number above `low` that `holds`; `high` does, and all above one that does, do."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _keeps(pool: Pool, load: Load, share: float, goal_s: float, cards: int) -> bool:
    times_s = service_times(replace(pool, cards=cards), load.prompt_tokens, load.answer_tokens)
    if load.users * share * times_s[-1] / len(times_s) > load.think_s + share * goal_s:
        return False  # not even the rate of users who wait as long as the goal allows
    queue = closed_queue(load.users, load.think_s / share, times_s, load.answer_scv, load.arrival_scv)
    return late_share(queue, goal_s, load.answer_scv) <= 1 - P95


def _keeps_alone(pool: Pool, load: Load, goal_s: float) -> bool:
    times_s = service_times(replace(pool, cards=1), load.prompt_tokens, load.answer_tokens)
    return late_share(closed_queue(1, load.think_s, times_s), goal_s, load.answer_scv) <= 1 - P95


def _plan(wish: Wish, load: Load, *, is_tiered: bool) -> Plan | None:
    mix, goals = load.mix, load.goals
    small_share = mix.small if is_tiered else 0.0
    full_share = mix.full if is_tiered else mix.small + mix.full
    small = _best(wish, load, wish.small, small_share, goals.small_s) if small_share > 0 else None
    full = _best(wish, load, wish.full, full_share, goals.full_s) if full_share > 0 else None
    if (small_share > 0 and small is None) or (full_share > 0 and full is None):
        return None
    return Plan(_name(small, full), small, full, wish.other_usd)


def _best(wish: Wish, load: Load, model: Model, share: float, goal_s: float) -> Pool | None:
    """The cheapest pool for one tier; of equally cheap ones the least loaded, which is the one with fewer slots."""
    found: list[tuple[float, int, str, Pool]] = []
    for card in wish.cards:
        usd = monthly_usd(card, wish.basis, wish.terms)
        for slots in wish.slots if usd is not None else ():
            if not instances_that_fit(card, model.shape, wish.context, slots, wish.kv_type):
                continue
            pool = Pool(model.name, model.shape, card, 1, 1, slots, wish.context, wish.kv_type)
            enough = fewest_cards(pool, load, share, goal_s)
            if enough is not None and usd is not None:
                found.append((enough.cards * usd, enough.servers, card.name, enough))
    return min(found, key=lambda each: each[:3])[3] if found else None


def _usd(plan: Plan, wish: Wish) -> float:
    costs = ((monthly_usd(pool.card, wish.basis, wish.terms) or 0.0) * pool.cards for pool in plan.pools)
    return sum(costs) + plan.other_usd


def _name(small: Pool | None, full: Pool | None) -> str:
    parts = [f"{tier} {pool.cards} × {pool.card.name}" for tier, pool in (("small", small), ("full", full)) if pool]
    return " + ".join(parts) or "cache alone"


# --- what-ifs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WhatIf:
    """One assumption changed, and the cheapest plan then; None where no plan keeps the goals any more."""

    change: str
    found: Candidate | None


def what_ifs(wish: Wish, load: Load, others: Sequence[tuple[str, Model, Model]] = ()) -> tuple[WhatIf, ...]:
    """The cheapest tiered plan as asked, then with hit rate, slots, context and length changed, each alone.

    `others`: further pairs of a small and a full model with the words for the change: models, quantisations.
    """
    told: list[tuple[str, Wish, Load]] = [("as asked", wish, load)]
    for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
        told.append((f"hit rate {rate:.0%}", wish, replace(load, mix=load.mix.with_hit_rate(rate))))
    told += [(words, replace(wish, small=small, full=full), load) for words, small, full in others]
    told += [(f"{slots} slots an instance", replace(wish, slots=(slots,)), load) for slots in wish.slots]
    told += [(f"context {tokens}", replace(wish, context=tokens), load) for tokens in (2048, 8192, 16384)]
    told.append(("KV cache q8_0", replace(wish, kv_type="q8_0"), load))
    told += [
        (f"answers of {tokens} tokens", wish, replace(load, answer_tokens=float(tokens))) for tokens in (50, 200, 400)
    ]
    told.append(("think time halved", wish, replace(load, think_s=load.think_s / 2)))
    return tuple(WhatIf(words, cheapest(changed, asked)) for words, changed, asked in told)
