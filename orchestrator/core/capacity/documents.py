"""The plans of the owner's documents, what they promise, and what their cards carry by the model of this package.

What the documents leave open is filled in to their favour, and said: which card, how many slots, what share the cache
answers. Slots are the most that fit beside the instances promised, up to what the documents give an instance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from orchestrator.core.capacity.carrying import Outcome, Plan, carry, users_carried
from orchestrator.core.capacity.demand import Load, Mix
from orchestrator.core.capacity.planning import SLOTS, Model
from orchestrator.core.capacity.prices import Basis, Terms, monthly_usd
from orchestrator.core.capacity.service import Pool, instance_bytes, instances_that_fit, service_times
from orchestrator.core.cards import Card, find_card
from orchestrator.core.sizing import GIB

CONTEXT: Final = 4096
NEVER_S: Final = 0.01  # thinks one who never thinks: the next question is there at once
FULL_SLOTS: Final = 4  # "One 8B instance: 2-4 users"
SMALL_SLOTS: Final = 20  # "10-20 users an instance"

# Dollars per million tokens in and out, of the documents' own list: GPT-4.1-mini.
API_USD_IN: Final = 0.40
API_USD_OUT: Final = 1.60
API_HOURS: Final = 160.0  # an assumption: what one user works in a month


@dataclass(frozen=True, slots=True)
class Part:
    """Cards of one kind for one tier, with the instances that the documents put on each."""

    card: str
    cards: int
    instances: int


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of the documents' table. `usd`: a month, low and high. `once_usd`: paid at the start.

    `at_once`: calls under way at the same moment. For pool and cloud the users are just that: four an instance.
    """

    name: str
    hardware: str
    users: tuple[int, int]
    at_once: int | None
    usd: tuple[float, float]
    mix: Mix
    full: Part
    small: Part | None = None
    once_usd: float = 0.0
    assumed: str = ""


_NO_CACHE: Final = Mix(0.0, 0.0, 1.0)
_HIT_80: Final = Mix(0.8, 0.0, 0.2)

PROMISES: Final = (
    Promise("MVP", "1 × RTX 4080", (1, 50), 20, (300, 300), _HIT_80, Part("RTX 4080", 1, 2)),
    Promise(
        "growth",
        "2 × RTX 4080 + balancer",
        (50, 200),
        80,
        (800, 800),
        _HIT_80,
        Part("RTX 4080", 2, 2),
        assumed="the cache answers 80 %, as for MVP",
    ),
    Promise(
        "pool",
        "3 × RTX 4090",
        (48, 96),
        96,
        (500, 500),
        _NO_CACHE,
        Part("RTX 4090", 3, 4),
        once_usd=15_000,
        assumed="no cache: the documents name none",
    ),
    Promise(
        "hybrid",
        "4 small + 2 full servers",
        (500, 500),
        None,
        (3800, 3800),
        Mix(),
        Part("RTX 4080", 2, 2),
        Part("RTX 4080", 4, 3),
        assumed="one RTX 4080 a server; 16 instances are 4 × 3 small and 2 × 2 full",
    ),
    Promise(
        "cloud",
        "4 × A100 40 GB",
        (64, 96),
        96,
        (3072, 36_000),
        _NO_CACHE,
        Part("A100-40GB", 4, 6),
        assumed="no cache: the documents name none",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise beside what was worked out.

    `plan`: the documents' cards and instances, as far as they fit. `carried`: its users within the goals; `at_once`: if
    they never think. `at_promise`: how it does with the users promised. `better`: the same cards with one instance each
    and the slots that serve most. `rent_usd`: what these cards rent for; None: no price known.
    """

    promise: Promise
    plan: Plan
    carried: int
    at_once: int
    at_carried: Outcome | None
    at_promise: Outcome
    better: Plan
    better_carried: int
    rent_usd: float | None
    reasons: tuple[str, ...]

    @property
    def usd(self) -> float:
        """The documents' dollars a month, the lower, with what is paid once spread over the months of `Terms`."""
        return self.promise.usd[0] + self.promise.once_usd / Terms().months

    @property
    def usd_a_user(self) -> float | None:
        return self.usd / self.carried if self.carried else None

    @property
    def too_hopeful(self) -> float | None:
        """How many times more users are promised than carried; None where none are. Below one: fewer."""
        return self.promise.users[1] / self.carried if self.carried else None


def judge(promise: Promise, load: Load, small: Model, full: Model) -> Verdict:
    """What the promise's hardware really does with users who ask as `load` says (its mix is the promise's)."""
    asked = replace(load, mix=promise.mix)
    small_pool = _as_promised(promise.small, small, SMALL_SLOTS) if promise.small else None
    plan = Plan(promise.name, small_pool, _as_promised(promise.full, full, FULL_SLOTS))
    carried = users_carried(plan, asked)
    at_once = users_carried(plan, replace(asked, think_s=NEVER_S))
    better, better_carried = _improve(plan, asked)
    at_promise = carry(plan, asked.with_users(promise.users[1]))
    busy_s = max(service_times(pool, load.prompt_tokens, load.answer_tokens)[-1] for pool in plan.pools)
    return Verdict(
        promise,
        plan,
        carried,
        at_once,
        carry(plan, asked.with_users(carried)) if carried else None,
        at_promise,
        better,
        better_carried,
        _rent(plan),
        tuple(_reasons(promise, plan, (carried, at_once, better_carried), at_promise, busy_s)),
    )


def _as_promised(part: Part, model: Model, most_slots: int) -> Pool:
    """The documents' instances with the most slots that fit beside each other; fewer instances where they do not."""
    card = find_card(part.card)
    fits = {slots: instances_that_fit(card, model.shape, CONTEXT, slots) for slots in range(most_slots, 0, -1)}
    slots = next((slots for slots, held in fits.items() if held >= part.instances), 1)
    instances = min(part.instances, fits[slots])
    if instances < 1:
        raise ValueError(f"{model.name} does not fit on one {card.name} with {CONTEXT} tokens of context")
    return Pool(model.name, model.shape, card, part.cards, instances, slots, CONTEXT)


def _improve(plan: Plan, load: Load) -> tuple[Plan, int]:
    """The same cards with one instance each, of as many slots as carry the most users, tier by tier."""
    best = replace(plan, small=_roomiest(plan.small, "small", load), full=_roomiest(plan.full, "full", load))
    return best, users_carried(best, load)


def _roomiest(pool: Pool | None, tier: str, load: Load) -> Pool | None:
    """One instance a card with the slots that carry the most of this tier's calls within its goal."""
    if pool is None:
        return None
    held = [slots for slots in SLOTS if instances_that_fit(pool.card, pool.shape, pool.context, slots)]
    share = load.mix.small if tier == "small" else load.mix.full
    alone = replace(load, mix=Mix(1 - share, share, 0.0) if tier == "small" else Mix(1 - share, 0.0, share))
    others = [replace(pool, instances=1, slots=slots) for slots in held]
    return max(others, key=lambda each: users_carried(_alone(each, tier), alone))


def _alone(pool: Pool, tier: str) -> Plan:
    return Plan(tier, pool, None) if tier == "small" else Plan(tier, None, pool)


def _rent(plan: Plan) -> float | None:
    each = [(monthly_usd(pool.card, Basis.RENT), pool.cards) for pool in plan.pools]
    return sum((usd or 0.0) * cards for usd, cards in each) if all(usd is not None for usd, _ in each) else None


def _reasons(
    promise: Promise, plan: Plan, found: tuple[int, int, int], at_promise: Outcome, busy_s: float
) -> list[str]:
    carried, at_once, better_carried = found
    said = [f"assumed: {promise.assumed}"] if promise.assumed else []
    for part, pool in ((promise.small, plan.small), (promise.full, plan.full)):
        if part is not None and pool is not None:
            said.append(_memory(part, pool))
    for tier in at_promise.tiers:
        if not tier.is_within:
            said.append(
                f"{promise.users[1]} users: {tier.tier} p95 {tier.p95_s:.1f} s, goal {tier.goal_s:g} s; "
                f"slots {tier.utilisation:.0%} at work, wait {tier.wait_s:.1f} s on average"
            )
    if promise.at_once is not None and at_once < promise.at_once:
        said.append(
            f"{promise.at_once} at once promised; {at_once} keep the goals: {sum(each.servers for each in plan.pools)} "
            f"slots in all, and an answer takes {busy_s:.1f} s on average while all are at work"
        )
    if better_carried > carried:
        said.append(f"one instance a card carries {better_carried} users: each further one reads weights of its own")
    return said


def _memory(part: Part, pool: Pool) -> str:
    """What the instances take, and how many of them the card holds."""
    each = instance_bytes(pool.shape, pool.context, pool.slots, pool.kv_type) / GIB
    told = f"{pool.model}: {each:.1f} GiB an instance with {pool.slots} × {pool.context} tokens"
    if pool.instances < part.instances:
        return f"{told}; {part.instances} an {pool.card.name} promised, {pool.instances} fit"
    return f"{told}; {part.instances} fit on one {pool.card.name}"


# --- single figures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the documents and what it really is."""

    what: str
    said: str
    found: str


def figures(load: Load, small: Model, full: Model) -> tuple[Figure, ...]:
    """The documents' single figures, worked out."""
    card = find_card("RTX 4080")
    return (
        Figure("VRAM of a small instance", "1 GB", _sizes(small, (1, 2, 4))),
        Figure("VRAM of a full instance", "6-8 GB", _sizes(full, (1, 2, 4))),
        Figure("users of a full instance", "2-4", _users(full, card, replace(load, mix=_NO_CACHE))),
        Figure("users of a small instance", "10-20", _users(small, card, replace(load, mix=Mix(0.0, 1.0, 0.0)))),
        Figure("an outside API, a user and month", "$20-100", _api(load)),
    )


def _sizes(model: Model, slots: tuple[int, ...]) -> str:
    sizes = [f"{instance_bytes(model.shape, CONTEXT, each) / GIB:.1f} GiB with {each}" for each in slots]
    return f"{', '.join(sizes)} slots of {CONTEXT} tokens"


def _users(model: Model, card: Card, load: Load) -> str:
    """Users who think, and calls at once, of one instance alone on `card`."""
    found: list[str] = []
    for slots in (slots for slots in (2, 4, 8, 16) if instances_that_fit(card, model.shape, CONTEXT, slots)):
        pool = Pool(model.name, model.shape, card, 1, 1, slots, CONTEXT)
        plan = _alone(pool, "small" if load.mix.small else "full")
        at_once = users_carried(plan, replace(load, think_s=NEVER_S))
        found.append(f"{users_carried(plan, load)} ({at_once}) with {slots}")
    return f"alone on an {card.name}, thinking {load.think_s:g} s (never): {', '.join(found)} slots"


def _api(load: Load) -> str:
    calls = API_HOURS * 3600 / (load.think_s + load.goals.small_s)
    usd = calls * (load.prompt_tokens * API_USD_IN + load.answer_tokens * API_USD_OUT) / 1e6
    return f"${usd:.2f} for {calls:,.0f} calls in {API_HOURS:.0f} hours of work, GPT-4.1-mini, no cache"
