"""One trial: a whole world under load, one fault, and the world whole again; judged by all that the checker knows."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos import checker, checker_engine, history
from tests.chaos.checker import Disturbance, End
from tests.chaos.faults import Fault
from tests.chaos.history import Called
from tests.chaos.mixed_load import Load, question_of
from tests.chaos.real_engine import Looking
from tests.chaos.world import ROUTE, World
from tests.cluster.running import REAL_MODEL

# For how long whoever asks a real engine rests at most, where that is not what is tried: it works on a core of the two
# that all the others have.
FEW_REST_S = 3.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much load there is: calls that end before the fault, with it, and once all is well again.

    Real engines have callers of their own, where there are any: few that rest long, unless the fault is theirs.
    """

    clients: int = 14
    before: int = 25
    during: int = 60
    after: int = 25
    engine_clients: int = 3
    engine_calls: int = 4  # before and after a fault that is the engines'


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Seconds count from the moment of the fault, `back_s`, where somebody must
    see to it, from then. `steps`: of a fail-over.

    `ends`: of the calls that were under way between the fault and the world's being whole again; `engine_ends`: of
    those among them, in `ends` too, that asked for the model of real engines. `engine`: what these are; "": there were
    none.
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
    engine: str = ""
    engine_ends: Mapping[str, int] = field(default_factory=dict)


def run(world: World, fault: Fault, seed: str, size: Size | None = None) -> Result:
    """Inject `fault` under load and judge what came of it."""
    size, rng = size or Size(), random.Random(seed)
    world.until_whole("the world is whole")
    world.until(world.is_idle, "no slot is held and nobody waits")
    books = Books(world)
    callers = world.callers(size.clients, *((size.engine_clients, 0.2) if fault.is_of_engine else (1, FEW_REST_S)))
    load = Load([each.endpoint for each in world.sides], callers, seed)
    with books.looking.looking(), load.asking():
        _until_more(load, fault, size.before, size, "before anything happens")
        from_s, back_s, to_s = _happens(world, fault, rng, load, size)
        _until_more(load, fault, size.after, size, "after all is well again")
    world.until(world.is_idle, "no slot is held and nobody waits any more")
    calls = list(load.ended)
    history.write(world.folder / f"{''.join(each if each.isalnum() else '-' for each in seed)}.history", calls)
    disturbance = Disturbance(from_s, to_s, fault.allows)
    breaches = judge(world, load, disturbance, books)
    return replace(_result(fault, seed, calls, disturbance, back_s, breaches), engine=world.engine)


def _until_more(load: Load, fault: Fault, count: int, size: Size, what: str) -> None:
    load.until_more(count, what)
    if fault.is_of_engine:
        load.until_more(size.engine_calls, f"{what}, of real engines", "engine-")


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
        self._usage, self._engines_usage = world.usage(), _usage_of_engines(world)
        self._looks = {each.name: each.look() for each in world.engines}
        self.looking = Looking(world.engines)
        self._from_s = time.monotonic()

    def journals(self, world: World) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
        """What played instances have counted since, and the slots of each."""
        journals, slots = world.journals()
        return {name: [each for each in told if each["at_s"] >= self._from_s] for name, told in journals.items()}, slots

    def counted(self, world: World) -> Counter[str]:
        return world.usage() - self._usage

    def written(self, world: World) -> list[int | None]:
        """Tokens, by each real engine's own count."""
        return [checker_engine.written(self._looks[each.name], each.look()) for each in world.engines]

    def counted_of_engines(self, world: World) -> Counter[str]:
        return _usage_of_engines(world) - self._engines_usage


def _usage_of_engines(world: World) -> Counter[str]:
    return world.usage(world.engines) if world.engines else Counter()


def judge(world: World, load: Load, disturbance: Disturbance, books: Books) -> list[str]:
    """Everything that a cluster promises, whatever happens to it."""
    calls, answers_for = list(load.ended), {ROUTE: world.plan.models}
    return [
        *checker.ended_once(load.begun, calls),
        *checker.ended_well(calls, disturbance),
        *checker.exact(calls, answers_for, world.says),
        *checker.starved(calls),
        *_by_journals(world, calls, disturbance, books),
        *(_by_engines(world, calls, disturbance, books) if world.engines else ()),
        *checker.leases_back(world.loads()),
    ]


def _by_journals(world: World, calls: list[Called], disturbance: Disturbance, books: Books) -> list[str]:
    journals, slots = books.journals(world)
    answers_for = {ROUTE: world.plan.models}
    calls = [each for each in calls if each.sent.model != REAL_MODEL]
    return [
        *checker.oversold(journals, slots),
        *([] if disturbance.allows.again else checker.ran_twice(calls, journals, answers_for)),
        *checker.accounted(calls, journals, books.counted(world), answers_for, disturbance.allows),
    ]


def _by_engines(world: World, calls: list[Called], disturbance: Disturbance, books: Books) -> list[str]:
    """The same as by journals, as far as the counters of a real engine tell it."""
    own = [each for each in calls if each.sent.model == REAL_MODEL]
    tokens = {each.sent.id: world.heard[question_of(each.sent)].tokens for each in own}
    return [
        *checker_engine.oversold(books.looking.looks, world.engines[0].slots),
        *checker_engine.accounted(
            own, tokens, books.written(world), books.counted_of_engines(world), disturbance.allows
        ),
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
        ends=_counted(end for end, _ in ends.values()),
        usual_s=round(max(usual, default=0.0), 2),
        slowest_s=round(max(whole, default=0.0), 2),
        last_bad_s=round(max(each.ended_s for each in bad) - disturbance.from_s, 2) if bad else None,
        back_s=round(back_s, 2),
        breaches=tuple(breaches),
        examples=tuple(sorted({ends[each.sent.id][1] for each in bad}))[:8],
        steps=dict(fault.steps()),
        engine_ends=_counted(ends[each.sent.id][0] for each in touched if each.sent.model == REAL_MODEL),
    )


def _counted(ends: Iterable[End]) -> dict[str, int]:
    return dict(Counter(each.name.lower() for each in ends))


def never(fault: Fault, seed: str, why: str) -> Result:
    """The result where the world was not well again."""
    return Result(fault.name, seed, 0, {}, 0.0, 0.0, None, 0.0, (why,))
