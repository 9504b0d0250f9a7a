"""One trial: a whole world under load, one fault, and the world whole again; judged by all that the checker knows."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import checker, history
from tests.chaos.checker import Disturbance, End
from tests.chaos.faults import Fault
from tests.chaos.history import Called
from tests.chaos.mixed_load import Load
from tests.chaos.world import ROUTE, World


@dataclass(frozen=True, slots=True)
class Size:
    """How much load there is: calls that end before the fault, with it, and once all is well again."""

    clients: int = 14
    before: int = 25
    during: int = 60
    after: int = 25


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Seconds count from the moment of the fault, `back_s`, where somebody must
    see to it, from then. `steps`: of a fail-over.

    `ends`: of the calls that were under way between the fault and the world's being whole again.
    """

    fault: str
    seed: str
    calls: int
    ends: Mapping[str, int]
    usual_s: float
    slowest_s: float
    last_bad_s: float | None
    back_s: float
    breaches: tuple[str, ...]
    examples: tuple[str, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)


def run(world: World, fault: Fault, seed: str, size: Size | None = None) -> Result:
    """Inject `fault` under load and judge what came of it."""
    size, rng = size or Size(), random.Random(seed)
    world.until_whole("the world is whole")
    world.until(world.is_idle, "no slot is held and nobody waits")
    books = Books(world)
    load = Load([each.endpoint for each in world.sides], (*world.plan.models, ROUTE), size.clients, seed)
    with load.asking():
        load.until_more(size.before, "before anything happens")
        from_s, back_s, to_s = _happens(world, fault, rng, load, size)
        load.until_more(size.after, "after all is well again")
    world.until(world.is_idle, "no slot is held and nobody waits any more")
    calls = list(load.ended)
    history.write(world.folder / f"{''.join(each if each.isalnum() else '-' for each in seed)}.history", calls)
    disturbance = Disturbance(from_s, to_s, fault.allows)
    breaches = judge(world, load, disturbance, books)
    return _result(fault, seed, calls, disturbance, back_s, breaches)


def _happens(world: World, fault: Fault, rng: random.Random, load: Load, size: Size) -> tuple[float, float, float]:
    """When it began, how long the world took to be whole again, and when it was."""
    from_s = time.monotonic()
    try:
        fault.inject(world, rng)
        if fault.heals_itself:
            world.until_whole("the world is whole again by itself")
            back_s = time.monotonic() - from_s
        load.until_more(size.during, f"with {fault.name}")
    finally:
        fault.heal(world)
    healed_s = time.monotonic()
    world.until_whole("the world is whole again")
    to_s = time.monotonic()
    return from_s, back_s if fault.heals_itself else to_s - healed_s, to_s


class Books:
    """What was counted before a trial, so that afterwards only what it added is judged."""

    def __init__(self, world: World) -> None:
        self._usage = world.usage()
        self._lines = {each.name: len(each.events()) for each in world.instances}

    def journals(self, world: World) -> dict[str, list[dict[str, Any]]]:
        return {each.name: each.events()[self._lines[each.name] :] for each in world.instances}

    def counted(self, world: World) -> Counter[str]:
        return world.usage() - self._usage


def judge(world: World, load: Load, disturbance: Disturbance, books: Books) -> list[str]:
    """Everything that a cluster promises, whatever happens to it. Instances that it deploys itself keep no journal."""
    calls, answers_for = list(load.ended), {ROUTE: world.plan.models}
    return [
        *checker.ended_once(load.begun, calls),
        *checker.ended_well(calls, disturbance),
        *checker.exact(calls, answers_for),
        *checker.starved(calls),
        *(_by_journals(world, calls, disturbance, books) if world.instances else ()),
        *checker.leases_back(world.loads()),
    ]


def _by_journals(world: World, calls: list[Called], disturbance: Disturbance, books: Books) -> list[str]:
    journals, slots = books.journals(world), {each.name: each.slots for each in world.instances}
    answers_for = {ROUTE: world.plan.models}
    return [
        *checker.oversold(journals, slots),
        *([] if disturbance.allows.again else checker.ran_twice(calls, journals, answers_for)),
        *checker.accounted(calls, journals, books.counted(world), answers_for, disturbance.allows),
    ]


def _result(
    fault: Fault, seed: str, calls: list[Called], disturbance: Disturbance, back_s: float, breaches: list[str]
) -> Result:
    touched = [each for each in calls if disturbance.touched(each)]
    ends = {each.sent.id: checker.end_of(each) for each in touched}
    whole = [each.seconds for each in touched if ends[each.sent.id][0] is End.WHOLE]
    bad = [each for each in touched if ends[each.sent.id][0] not in (End.WHOLE, End.LEFT)]
    usual = [each.seconds for each in calls if each.ended_s < disturbance.from_s]
    return Result(
        fault=fault.name,
        seed=seed,
        calls=len(touched),
        ends=dict(Counter(end.name.lower() for end, _ in ends.values())),
        usual_s=round(max(usual, default=0.0), 2),
        slowest_s=round(max(whole, default=0.0), 2),
        last_bad_s=round(max(each.ended_s for each in bad) - disturbance.from_s, 2) if bad else None,
        back_s=round(back_s, 2),
        breaches=tuple(breaches),
        examples=tuple(sorted({ends[each.sent.id][1] for each in bad}))[:8],
        steps=dict(fault.steps()),
    )


def never(fault: Fault, seed: str, why: str) -> Result:
    """The result where the world was not well again."""
    return Result(fault.name, seed, 0, {}, 0.0, 0.0, None, 0.0, (why,))
