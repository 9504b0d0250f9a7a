"""How good are solved plans, and how long do they take?

    python -m benchmarks.placement [--fleets 200] [--small 100] [--large 20]

Three questions. The gap to the bound of the relaxed program on random fleets of 8 to 200 GPUs. Whether plans of fleets
of up to 6 GPUs are as good as the best that trying everything finds. The time for 1,000 GPUs and 20 models, from
demands to named instances. All seeds are told, so that each fleet can be made again. No GPU is
needed: fleets are lists of cards.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.placement.bound import bound_of, whole
from benchmarks.placement.brute import best_score
from benchmarks.placement.fleets import random_demands, random_fleet
from orchestrator.core.model import Demand, NodeFacts, PlacementPlan
from orchestrator.core.placement import Effort, place

World = tuple[list[NodeFacts], list[Demand]]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--fleets", type=int, default=200)
    ask.add_argument("--small", type=int, default=100)
    ask.add_argument("--large", type=int, default=20)
    chosen = ask.parse_args()
    for count, part in ((chosen.fleets, _gaps), (chosen.small, _against_brute_force), (chosen.large, _times)):
        if count:
            part(count)


def world(seed: int, gpus: tuple[int, int], models: tuple[int, int]) -> World:
    rng = random.Random(seed)
    nodes = random_fleet(rng, rng.randint(*gpus))
    return nodes, random_demands(rng, nodes, rng.randint(*models), pressure=rng.choice((0.9, 1.0, 1.1, 1.3)))


def score(plan: PlacementPlan, demands: Sequence[Demand]) -> tuple[int, int, float]:
    """Pools with nothing, copies missing to minimums, calls unserved: counted from the plan alone."""
    have = Counter(each.pool for each in plan.placements)
    return (
        sum(not have[each.pool] for each in demands if each.replicas_min),
        sum(max(0, each.replicas_min - have[each.pool]) for each in demands),
        sum(max(0.0, (each.load or 0) - have[each.pool] * each.slots) for each in demands),
    )


def _gaps(fleets: int) -> None:
    solved, rounded, greedy, missed, took_s = [], [], [], 0, []
    for seed in range(fleets):
        nodes, demands = world(seed, (8, 200), (3, 20))
        load = sum(each.load or 0 for each in demands)
        plan, _, worked_s = _timed(partial(place, demands, nodes))
        took_s.append(worked_s)
        bound = bound_of(nodes, demands, plan)
        silent, missing, unserved = score(plan, demands)
        missed += bool(silent or missing)
        solved.append(_gap(bound, load - unserved))
        rounded.append(_gap(whole(bound), load - unserved))
        greedy.append(_gap(bound, load - score(place(demands, nodes, effort=Effort(0)), demands)[2]))
    print(f"{fleets} fleets of 8 to 200 GPUs, 3 to 20 models; gap to the bound in %: mean, median, p95, worst")
    for name, gaps in (("solved", solved), ("solved, to whole calls", rounded), ("greedy", greedy)):
        ranked = sorted(100 * each for each in gaps)
        middle, late = ranked[len(ranked) // 2], ranked[int(0.95 * (len(ranked) - 1))]
        above, mean = sum(each > 1 for each in ranked), sum(ranked) / len(ranked)
        print(f"  {name}: {mean:.3f} {middle:.3f} {late:.3f} {ranked[-1]:.3f}; above 1 %: {above}")
    worst = sorted(range(fleets), key=lambda seed: -solved[seed])[:5]
    print(f"  worst seeds: {', '.join(f'{each} ({100 * solved[each]:.2f} %)' for each in worst)}")
    print(f"  the best there is, by the bound in whole calls: {sum(not each for each in rounded)}")
    print(f"  fleets where a minimum is missing: {missed}")
    ranked_s = sorted(took_s)
    print(f"  processor seconds a plan: median {ranked_s[len(ranked_s) // 2]:.2f}, longest {ranked_s[-1]:.2f}")


def _gap(bound: float, served: float) -> float:
    return max(0.0, bound - served) / bound


def _against_brute_force(fleets: int) -> None:
    worse: list[int] = []
    better: list[int] = []
    helped = 0
    for seed in range(fleets):
        nodes, demands = world(seed, (1, 6), (1, 4))
        found = score(place(demands, nodes), demands)
        helped += score(place(demands, nodes, effort=Effort(0)), demands) > found
        best = best_score(demands, nodes)
        if found != best:
            (worse if found > best else better).append(seed)
    print(f"{fleets} fleets of 1 to 6 GPUs, 1 to 4 models, beside brute force: seeds worse {worse}, better {better}")
    print(f"  better than greedy: {helped}")


def _times(fleets: int) -> None:
    print(f"1,000 GPUs, 20 models, {fleets} fleets: seconds (of the processor), calls served of those asked for")
    for seed in range(fleets):
        rng = random.Random(seed)
        nodes = random_fleet(rng, 1000)
        demands = random_demands(rng, nodes, 20, pressure=(0.8, 1.0, 1.2)[seed % 3])
        load = sum(each.load or 0 for each in demands)
        told = []
        for effort in (Effort(0), Effort()):
            plan, took_s, worked_s = _timed(partial(place, demands, nodes, effort=effort))
            told.append(f"{took_s:.2f} s ({worked_s:.2f} s) {load - score(plan, demands)[2]:.0f}")
        print(f"  seed {seed}: greedy {told[0]}, solved {told[1]}, asked for {load:.0f}", flush=True)


def _timed(work: Callable[[], PlacementPlan]) -> tuple[PlacementPlan, float, float]:
    """The plan, the seconds until it was there, and those of the processor: all there are on a machine at rest."""
    began, worked = time.perf_counter(), time.process_time()
    plan = work()
    return plan, time.perf_counter() - began, time.process_time() - worked


if __name__ == "__main__":
    main()
